"""What users type, and what files hold, read as the values of settings."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from rsray.errors import UserError


def numbers(texts: str | Iterable[str], what: str) -> list[float]:
    """Return the numbers in texts such as "0.25,0.5"; UserError for one that is none."""
    given = [texts] if isinstance(texts, str) else list(texts)
    parts = [part for text in given for part in text.replace(",", " ").split()]
    try:
        found = [float(part) for part in parts or given]
    except ValueError as problem:
        raise UserError(
            f"{what} {' '.join(given)!r} is no number, nor a list such as 0.25,0.5"
        ) from problem
    if len({f"{number:g}" for number in found}) < len(found):
        raise UserError(f"{what} {','.join(parts)!r} names a value twice")
    return found


def radii(value: Any, what: str = "at-radius") -> list[float]:
    """Return the radii in a list of numbers or of texts such as "0.25,0.5", ascending."""
    given = [value] if isinstance(value, str | int | float) else list(value)
    try:
        parts = [part for each in given for part in str(each).replace(",", " ").split()]
        found = sorted({float(part) for part in parts})
        if given and not found:
            raise ValueError("it holds no number")
    except ValueError as problem:
        typed = " ".join(map(str, given))
        raise ValueError(f"{what} {typed!r} is no list of radii, for example 0.25,0.5") from problem
    if found and not (found[0] >= 0 and found[-1] < math.inf):
        raise ValueError(f"{what} is {found[0]:g}: radii are finite and at least 0")
    return found


def step_or_radii(value: Any) -> float | tuple[float, ...]:
    """Return the step in a number such as "0.25", or the radii in a list such as "0,0.5,1"."""
    if isinstance(value, str) and "," not in value:
        found = radii(value, "radii")
        value = found[0] if len(found) == 1 else value
    if not isinstance(value, int | float):
        return tuple(radii(value, "radii"))
    if not 1e-3 <= value <= 1e3:
        raise ValueError(f"radii is {value:g}: a step is from 0.001 to 1000")
    return float(value)


def inches(value: Any) -> tuple[float, float]:
    """Return width and height in a text such as "6x3.9"; ValueError for what is none."""
    parts = str(value).lower().split("x") if isinstance(value, str) else list(value)
    try:
        width, height = (float(part) for part in parts)
    except ValueError as problem:
        raise ValueError(f"size {value!r} is no width and height in inches, as 6x3.9") from problem
    if not (1 <= width <= 50 and 1 <= height <= 50):
        raise ValueError(f"size is {value}: inches are 1 to 50")
    return width, height


def read_range(values: Any, name: str, least: int) -> Any:
    """Return settings in which "2-64", given for `name`, is `name` 2 and `most_name` 64."""
    given = values.get(name) if isinstance(values, dict) else None
    if not isinstance(given, str):
        return values
    low, dash, high = given.strip().partition("-")
    if not low.isdecimal() or bool(dash) != high.isdecimal() or int(low) < least:
        raise ValueError(
            f"{name} is {given}: must be a number from {least}, or a range such as 2-64"
        )
    if dash and not 1 <= int(low) <= int(high):
        raise ValueError(f"{name} is {given}: a range must go from at least 1 upwards")
    return {**values, name: int(low), f"most_{name}": int(high) if dash else None}


def parse_assignments(pairs: Iterable[str]) -> dict[str, Any]:
    """Return {key: value} of `key=value` texts; values are read as YAML scalars or lists."""
    from rsray.storage.yaml_files import parse_value

    if not isinstance(pairs, Iterable) or not all(isinstance(pair, str) for pair in pairs):
        raise UserError(f"{pairs!r} is no list of key=value")
    parsed: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key.strip():
            raise UserError(f"--set {pair!r} is not of the form key=value")
        try:
            parsed[key.strip()] = parse_value(value)
        except UserError as problem:
            raise UserError(f"--set {pair!r}: the value is not valid YAML") from problem
    return parsed
