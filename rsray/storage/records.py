"""Records in files, read as what anybody may have written: plain values, then their types."""

from __future__ import annotations

import json
import math
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from rsray.errors import UserError
from rsray.family import choose

Kind = TypeVar("Kind")
# No record of ours comes near these; beyond them a file only wears its reader out.
MOST_VALUES, MOST_DEPTH, MOST_WHOLE = 2_000_000, 50, 2**64


def from_json(data: bytes | str, name: str, *, finite: bool = True) -> Any:
    """Return the value in a JSON text; UserError for what is none, or not `finite`."""
    try:
        value = json.loads(data)
    except RecursionError as problem:
        raise UserError(f"{name} is nested too deeply") from problem
    except ValueError as problem:
        raise UserError(f"{name} is not valid JSON: {str(problem).splitlines()[0]}") from problem
    check_plain(value, name, finite=finite)
    return value


def check_plain(value: Any, name: str, *, finite: bool = True) -> None:
    """Raise UserError for numbers beyond all use, no text, or more values than any record holds.

    What is repeated by an alias counts each time: it would be written out somewhere.
    """
    waiting, met = [(value, 0)], 0
    while waiting:
        here, depth = waiting.pop()
        met += 1
        if depth > MOST_DEPTH or met > MOST_VALUES:
            raise UserError(f"{name} is nested too deeply, or holds too many values")
        if isinstance(here, int) and abs(here) > MOST_WHOLE:
            raise UserError(f"{name} holds a number of more than {MOST_WHOLE:.0e}")
        if isinstance(here, str) and not _is_text(here):
            raise UserError(f"{name} holds {ascii(here)}, which is no text")
        if finite and isinstance(here, float) and not math.isfinite(here):
            raise UserError(f"{name} holds {here}, which is no number")
        if isinstance(here, dict):
            waiting += [(key, depth + 1) for key in here]
            waiting += [(inside, depth + 1) for inside in here.values()]
        elif isinstance(here, list | tuple | set):
            waiting += [(inside, depth + 1) for inside in here]


def _is_text(value: str) -> bool:
    """Return whether a string is Unicode: escapes can make halves of characters."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_as(kind: type[Kind] | TypeAdapter[Kind], value: Any, name: str) -> Kind:
    """Return a value as a type; UserError, naming the file, for the first thing that is wrong."""
    adapter = kind if isinstance(kind, TypeAdapter) else TypeAdapter(kind)
    try:
        return adapter.validate_python(value)
    except ValidationError as problem:
        raise UserError(f"{name}: {first_problem(problem)}") from problem


def first_problem(problem: ValidationError) -> str:
    """Return in one line the first thing that is wrong: the field, the value and the rule."""
    first = problem.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, Exception):
        return str(cause)
    where = ".".join(str(part) for part in first["loc"]) or "configuration"
    if first["type"] == "extra_forbidden":
        return f"{where} is not a known setting"
    if first["type"] == "missing":
        return f"{where} is missing"
    if first["type"] == "literal_error":
        return _not_among(where, first["input"], first["ctx"]["expected"])
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"{where} is {shortened(first['input'])}: {message.replace('input ', '')}"


def shortened(value: object) -> str:
    """Return a value as it is typed, its middle left out where it fills more than a line."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:80]} ... {text[-20:]}"


def _not_among(name: str, value: object, expected: str) -> str:
    """Return what `choose` says of a value that is none of 'a', 'b' or 'c'."""
    try:
        return choose(value, expected.replace("'", "").replace(" or ", ", ").split(", "), name)
    except UserError as problem:
        return str(problem)
