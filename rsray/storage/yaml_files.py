"""Settings as YAML text: what run.yaml, certify.yaml, tune.yaml and --config hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import yaml

from rsray.errors import UserError
from rsray.storage.records import check_plain

# What PyYAML raises for a text that is no YAML: of a scalar that its tag does not fit
# (`!!int ""`, 2001-99-99) whatever Python raised.
NO_YAML = (yaml.YAMLError, ValueError, TypeError, KeyError, IndexError, AttributeError)
MOST_FLOW_DEPTH = 200


def to_yaml(values: Mapping[str, Any]) -> bytes:
    """Return the values as YAML text in UTF-8, in their order."""
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True).encode()


def from_yaml(data: bytes, name: str) -> dict[str, Any]:
    """Return the mapping in a YAML file; UserError if it is not one."""
    (values,) = load_yaml(data, name)[:1] or [None]
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UserError(f"{name} does not hold settings (key: value lines)")
    return values


def load_yaml(data: bytes | str, name: str) -> list[Any]:
    """Return the documents in a YAML text; UserError for one that is none or that exhausts us."""
    if _flow_depth(data) > MOST_FLOW_DEPTH:
        raise UserError(f"{name} is nested too deeply")
    try:
        documents = list(yaml.safe_load_all(data))
    except RecursionError as problem:
        raise UserError(f"{name} is nested too deeply") from problem
    except NO_YAML as problem:
        reason = next(iter(str(problem).splitlines()), type(problem).__name__)
        raise UserError(f"{name} is not valid YAML: {reason}") from problem
    check_plain(documents, name, finite=False)
    return documents


def _flow_depth(data: bytes | str) -> int:
    """Return how deep the brackets of a text are: PyYAML takes the square of it in time."""
    brackets = re.findall(
        rb"[\[\]{}]", data if isinstance(data, bytes) else data.encode("utf-8", "replace")
    )
    return max(accumulate(1 if each in b"[{" else -1 for each in brackets), default=0)


def parse_value(text: str) -> Any:
    """Return the YAML value of a text; 1e-3, which YAML 1.1 reads as text, is a number.

    Raises UserError for a text that is no YAML.
    """
    (value,) = load_yaml(text, repr(text))[:1] or [None]
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
