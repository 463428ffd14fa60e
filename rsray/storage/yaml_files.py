"""Settings as YAML text: what run.yaml, certify.yaml, tune.yaml and --config hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from rsray.errors import UserError


def to_yaml(values: Mapping[str, Any]) -> bytes:
    """Return the values as YAML text in UTF-8, in their order."""
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True).encode()


def from_yaml(data: bytes, name: str) -> dict[str, Any]:
    """Return the mapping in a YAML file; UserError if it is not one."""
    try:
        values = yaml.safe_load(data)
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise UserError(f"{name} is not valid YAML: {str(problem).splitlines()[0]}") from problem
    if not isinstance(values, dict):
        raise UserError(f"{name} does not hold settings (key: value lines)")
    return values


def parse_value(text: str) -> Any:
    """Return the YAML value of a text; 1e-3, which YAML 1.1 reads as text, is a number."""
    value = yaml.safe_load(text)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
