"""Where the pictures lie in a tar file: read through once, then kept on this machine.

The samples are WebDataset's: neighbours of one name up to its first dot, `key.jpg` beside `key.cls`
or `key.json`.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import tarfile
from collections.abc import Iterator
from itertools import groupby
from typing import Any, NamedTuple

import pyarrow as pa

from rsray.data.reading.decode import SUFFIXES
from rsray.errors import UserError
from rsray.storage import Place, one_line
from rsray.storage.records import from_json

log = logging.getLogger(__name__)
_FIELDS: list[tuple[str, pa.DataType, str]] = [
    ("key", pa.string(), "name of the sample"),
    ("offset", pa.int64(), "first byte of the picture in the tar"),
    ("size", pa.int64(), "bytes of the picture"),
    ("label", pa.string(), "class, a number or a name"),
    ("class_name", pa.string(), "name of the class; null where none is given"),
]
INDEX = pa.schema(
    [
        pa.field(name, kind, nullable=name == "class_name", metadata={"meaning": meaning})
        for name, kind, meaning in _FIELDS
    ]
)
# Of what an index holds
VERSION = 3
# Read at once from a store where every request has its price
STREAM_BYTES = 8 * 2**20
CLASS_EXTENSIONS = ("cls", "cls.txt")
LABEL_FIELDS, NAME_FIELDS = ("label", "cls"), ("class_name", "classname", "synset")


class Member(NamedTuple):
    """A file in a tar; `content` only of those that say the class."""

    key: str
    extension: str
    offset: int
    size: int
    content: bytes


def read_index(file: Place, label_field: str | None = None) -> pa.Table:
    """Return the samples of a tar file in their order, as a table of INDEX.

    `label_field` is the field of the .json that tells the class, where it is none of ours. Raises
    UserError, naming the file, when it is damaged or a sample lacks its picture or class.
    """
    size, modified = file.size_and_time()
    # A changed file could not be told from what was kept
    if modified is None:
        return _build(file, label_field)
    text = f"{VERSION} {file.uri} {size} {modified} {label_field or ''}".rstrip()
    name = hashlib.blake2b(text.encode(), digest_size=16).hexdigest() + ".arrow"
    kept = _kept(name)
    if kept is None:
        kept = _build(file, label_field)
        _keep(name, kept)
    return kept


def cache_folder() -> Place:
    """Return where indices are kept: $XDG_CACHE_HOME/rsray, by default ~/.cache/rsray."""
    return Place.of(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "rsray" / "tar-index"


def _kept(name: str) -> pa.Table | None:
    try:
        table = pa.ipc.open_file(cache_folder().read(name)).read_all()
    except (OSError, pa.ArrowException):
        return None
    return table if table.schema.equals(INDEX) else None


def _keep(name: str, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, INDEX) as writer:
        writer.write_table(table)
    try:
        cache_folder().make().write(name, sink.getvalue().to_pybytes())
    except (OSError, UserError) as problem:
        log.warning("the index of a tar file cannot be kept: %s", one_line(problem))


def _build(file: Place, label_field: str | None) -> pa.Table:
    rows = [
        _sample(file, key, list(members), label_field)
        for key, members in groupby(_members(file), key=lambda member: member.key)
    ]
    if not rows:
        raise UserError(f"{file}: no samples in it")
    return pa.Table.from_pylist(rows, schema=INDEX)


def _members(file: Place) -> Iterator[Member]:
    """Yield the files of a tar: locally from header to header, else in one stream."""
    try:
        with file.open() as stream, _opened(file, stream) as archive:
            while (info := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                key, extension = _divided(info.name)
                if not info.isfile() or not extension:
                    continue
                says = extension == "json" or extension in CLASS_EXTENSIONS
                content = archive.extractfile(info) if says else None
                text = content.read() if content else b""
                yield Member(key, extension, info.offset_data, info.size, text)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{file}: damaged or no tar file: {one_line(error)}") from error


def _opened(file: Place, stream: Any) -> tarfile.TarFile:
    if file.is_local:
        return tarfile.open(fileobj=stream, mode="r:")
    reader: Any = io.BufferedReader(stream, STREAM_BYTES)
    return tarfile.open(fileobj=reader, mode="r|", bufsize=2**20)


def _divided(name: str) -> tuple[str, str]:
    """Return the key and the extension of a member; no extension for a hidden file."""
    folder, _, base = name.removeprefix("./").rpartition("/")
    stem, _, extension = base.partition(".")
    return (f"{folder}/{stem}" if folder else stem), (extension.lower() if stem else "")


def _sample(
    file: Place, key: str, members: list[Member], label_field: str | None
) -> dict[str, Any]:
    pictures = [
        member for member in members if f".{member.extension.rpartition('.')[2]}" in SUFFIXES
    ]
    if not pictures:
        found = ", ".join(member.extension for member in members)
        raise UserError(f"{file}: sample {key!r} has no picture (it has {found})")
    if len(pictures) > 1:
        found = ", ".join(member.extension for member in pictures)
        raise UserError(f"{file}: sample {key!r} has several pictures ({found}): which one?")
    said = next((_json(file, m) for m in members if m.extension == "json"), {})
    label = _label(file, members, said, label_field)
    if isinstance(label, bool) or not isinstance(label, int | str) or label == "":
        needs = f"a field {label_field!r}" if label_field else ".cls, or a label"
        raise UserError(f"{file}: sample {key!r} has no class: it needs {needs} in .json")
    name = next((said[field] for field in NAME_FIELDS if isinstance(said.get(field), str)), None)
    picture = pictures[0]
    return {
        "key": key,
        "offset": picture.offset,
        "size": picture.size,
        "label": str(label),
        "class_name": name,
    }


def _label(
    file: Place, members: list[Member], said: dict[str, Any], label_field: str | None
) -> Any:
    """Return what a sample says of its class: in the field that was asked for, .cls or .json."""
    if label_field:
        return said.get(label_field)
    told = next((_text(file, m) for m in members if m.extension in CLASS_EXTENSIONS), None)
    labels = [
        label
        for label in (told, *(said.get(name) for name in LABEL_FIELDS))
        if label is not None and label != ""
    ]
    texts = {str(label).strip() for label in labels}
    numbers = {str(int(text)) for text in texts if text.isdecimal()}
    # A name may stand beside a number.
    for alike in (numbers, {text for text in texts if not text.isdecimal()}):
        if len(alike) > 1:
            raise UserError(
                f"{file}: a sample says that its label is {' and '.join(sorted(alike))}: name the "
                "field of the .json with --label-column"
            )
    return labels[0] if labels else None


def _text(file: Place, member: Member) -> str:
    try:
        return member.content.decode().strip()
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: the .cls of sample {member.key!r} is no text") from error


def _json(file: Place, member: Member) -> dict[str, Any]:
    content = from_json(member.content, f"{file}: the .json of sample {member.key!r}", finite=False)
    return content if isinstance(content, dict) else {}
