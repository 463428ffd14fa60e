"""Whose an output folder is: empty, this run's own, or another's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from rsray.errors import UserError
from rsray.storage.place import Place
from rsray.storage.yaml_files import from_yaml

# An error names so many differences.
MOST_DIFFERENCES_SHOWN = 3


class Settings(Protocol):
    """A run's settings, which can tell how they differ from recorded ones."""

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """Return "field is X here, Y there" for each deciding field that differs."""


def read_own_record(
    folder: Place, record: str, config: Settings, kind: str
) -> dict[str, Any] | None:
    """Return what the file `record` holds of this run's earlier start, or None for a new run.

    Hidden files do not count. Raises UserError when the folder belongs to another `kind` ("run",
    "search", ...), naming the first differences, or holds something else.
    """
    if folder.is_file():
        raise UserError(f"{folder} is a file: --out needs a folder")
    if not folder.exists(record):
        if [name for name in folder.names() if not name.startswith(".")]:
            raise UserError(f"{folder} is not empty and is no {kind}; use another --out")
        return None
    found = from_yaml(folder.read(record), f"{folder}/{record}")
    differences = config.differences(found)
    if differences:
        first = "; ".join(differences[:MOST_DIFFERENCES_SHOWN])
        raise UserError(f"{folder} belongs to another {kind}: {first}; use another --out")
    return found


def write_own_record(
    folder: Place, record: str, content: bytes, read_own: Callable[[], object | None]
) -> None:
    """Write the record of a new run, unless another process has written one since it was read.

    `read_own` is None while there is none, and raises UserError for another run's: of two that are
    started at once with one folder, one is refused, and the record is that of the other.
    """
    with folder.make().locked():
        if read_own() is None:
            folder.write(record, content)
