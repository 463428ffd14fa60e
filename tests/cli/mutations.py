"""What a stranger, or a broken disk, may make of a file: bytes, values and columns that are none."""

import copy
import json
from functools import lru_cache

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from rsray.storage.schemas import RUN_KEY

DEEP = "[" * 3000 + "]" * 3000
# Each is ten times the one before: ten to the ninth texts.
LAUGHS = "a0: &a0 [lol, lol]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)
TOKENS = [
    b"nan", b".nan", b"NaN", b"Infinity", b"-.inf", b"1e999", b"-1", b"99999999999999999999",
    b"1" * 5000, b"null", b"[]", b"{}", b"''", b"!!timestamp x", b"!!int ''", b"!!python/name:os",
    b"2001-99-99", b"\xff\xfe", b"\x00", b"\x1b]0;x\x07", "\u202e".encode(), b"*a", b"&a [*a]",
    b"\t", b"\n", b"|", DEEP.encode(),
]  # fmt: skip
VALUES = [
    None, True, False, 0, -1, 1, 2, 7, 10**9, 10**20, 10**400, -(10**20), 0.5, -0.5, 1e-300, 1e300, float("nan"),
    float("inf"), -float("inf"), "", " ", "1", "nan", "x", "\x1b]0;owned\x07", "\u202e|<b>&$",
    "../../x", "x" * 10_000, "\ud800", [], [1], [None], [[]], ["a", 1], {}, {"a": 1}, {"": {}},
    [10**20], ["x"] * 20, {"start": "x"}, [float("nan")], [-1, 0, 10**9],
]  # fmt: skip


def nested(depth=200):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


def mutated_bytes(random, content):
    """Return the content with one to three places changed."""
    for _ in range(random.randint(1, 3)):
        at = random.randint(0, max(len(content) - 1, 0))
        end = min(len(content), at + random.choice([1, 1, 2, 8, 40, 10**9]))
        new = random.choice(
            [b"", bytes([random.randint(0, 255)]), random.choice(TOKENS), content[at:end] * 2]
        )
        content = content[:at] + new + content[end:]
    return content


def _places(value, path=()):
    yield path
    inside = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, each in inside:
        yield from _places(each, (*path, key))


def mutated_value(random, value):
    """Return a copy with one or two values replaced, removed or added somewhere."""
    value = {"root": copy.deepcopy(value)}
    for _ in range(random.randint(1, 2)):
        places = [path for path in _places(value) if path]
        *parents, key = random.choice(places)
        here = value
        for parent in parents:
            here = here[parent]
        what = random.randint(0, 9)
        if what < 7:
            here[key] = copy.deepcopy(random.choice([*VALUES, nested()]))
        elif what < 9 and parents:
            del here[key]
        elif isinstance(here, dict) and parents:
            here[random.choice(["extra", "", "root", "n", 3])] = random.choice(VALUES)
    return value.get("root")


@lru_cache(maxsize=4)
def _values(content):
    return yaml.safe_load(content)


def mutated_yaml(random, content):
    """Return a YAML file with bytes or values changed, or one made to exhaust its reader."""
    kind = random.randint(0, 19)
    if kind == 0:
        return random.choice([LAUGHS, DEEP, "&a [*a]", "a: &a {b: *a}"]).encode()
    if kind == 1:
        return content + b"\n" + random.choice([LAUGHS, "x: &a [*a]", f"deep: {DEEP}"]).encode()
    if kind < 8:
        return mutated_bytes(random, content)
    text = yaml.safe_dump(mutated_value(random, _values(content)), sort_keys=False)
    return text.encode(errors="surrogatepass")


def mutated_json(random, content):
    kind = random.randint(0, 19)
    if kind == 0:
        return random.choice([DEEP, "", "[]", "1e999", "1" * 5000, '"\\ud800"']).encode()
    if kind < 7:
        return mutated_bytes(random, content)
    return json.dumps(mutated_value(random, json.loads(content))).encode()


def mutated_lines(random, content):
    """Return a file of JSON lines with some lines changed, doubled, moved or left out."""
    if random.randint(0, 3) == 0:
        return mutated_bytes(random, content)
    lines = content.splitlines(keepends=True)
    at = random.randint(0, len(lines) - 1)
    what = random.randint(0, 9)
    if what == 0:
        del lines[at]
    elif what == 1:
        lines.insert(random.randint(0, len(lines)), lines[at])
    else:
        lines[at] = json.dumps(mutated_value(random, json.loads(lines[at]))).encode() + b"\n"
    return b"".join(lines)


NUMBERS = [None, 0, 1, -1, 2**31 - 1, 2**62, 10**9, float("nan"), float("inf"), -1.0, 1e300, 0.5]


def mutated_parquet(random, content):
    """Return a Parquet file with bytes, metadata or columns changed."""
    if random.randint(0, 3) == 0:
        return mutated_bytes(random, content)
    table = pq.read_table(pa.BufferReader(content))
    metadata = json.loads(table.schema.metadata[RUN_KEY])
    if random.randint(0, 1):
        text = mutated_json(random, json.dumps(metadata).encode())
        return _parquet(table.replace_schema_metadata({RUN_KEY: text}))
    name = random.choice(table.column_names)
    at = table.column_names.index(name)
    what = random.randint(0, 9)
    if what == 0:
        return _parquet(table.drop_columns([name]))
    if what == 1:
        return _parquet(table.append_column(random.choice(["more", name]), table[name]))
    if what == 2:
        return _parquet(table.slice(0, random.randint(0, len(table))))
    if what == 3:
        rows = [random.randint(0, len(table) - 1) for _ in range(len(table) + 1)]
        return _parquet(table.take(rows))
    values = table[name].to_pylist()
    row = random.randint(0, len(values) - 1)
    if isinstance(values[row], list):
        values[row] = random.choice(
            [[], [1], [1] * 3, [-1], [2**31 - 1], [2**62], [2**62, 2**62], None, [None]]
        )
    elif isinstance(values[row], str):
        values[row] = random.choice(["", "selection", "estimation", "reused", "x", None])
    else:
        values[row] = random.choice(NUMBERS)
    try:
        column = pa.array(values, table[name].type)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        column = pa.array([None if v is None else str(v) for v in values])
    field = pa.field(name, column.type)
    return _parquet(table.set_column(at, field, column))


def _parquet(table):
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def mutated_log(random, content):
    """Return a log with a cell of a line changed."""
    if random.randint(0, 2) == 0:
        return mutated_bytes(random, content)
    lines = content.decode().splitlines()
    at = random.randint(0, len(lines) - 1)
    cells = lines[at].split("\t")
    value = random.choice([*VALUES, "1" * 5000, "1:2:3", "9 days, 1:2:3.4", "\u0664"])
    cells[random.randint(0, len(cells) - 1)] = str(value)
    lines[at] = "\t".join(cells)
    return "\n".join(lines).encode(errors="surrogatepass")
