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

    What is repeated by an alias counts each time, though it is looked at once: it would be written
    out somewhere.
    """
    too_much = UserError(f"{name} is nested too deeply, or holds too many values")
    # Of each dict or list, by its identity: the values in it, and how deep they go.
    known: dict[int, tuple[int, int]] = {}

    def measure(here: Any, depth: int) -> tuple[int, int]:
        if depth > MOST_DEPTH:
            raise too_much
        if not isinstance(here, dict | list | tuple | set):
            _check_scalar(here, name, finite=finite)
            return 1, 0
        if id(here) not in known:
            parts = [*here, *here.values()] if isinstance(here, dict) else here
            inside = [measure(part, depth + 1) for part in parts]
            height = 1 + max((below for _, below in inside), default=0)
            known[id(here)] = 1 + sum(values for values, _ in inside), height
        values, height = known[id(here)]
        if depth + height > MOST_DEPTH or values > MOST_VALUES:
            raise too_much
        return values, height

    measure(value, 0)


def _check_scalar(value: Any, name: str, *, finite: bool) -> None:
    if isinstance(value, int) and abs(value) > MOST_WHOLE:
        raise UserError(f"{name} holds a number of more than {MOST_WHOLE:.0e}")
    if isinstance(value, str) and not _is_text(value):
        raise UserError(f"{name} holds {ascii(value)}, which is no text")
    if finite and isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name} holds {value}, which is no number")


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
