"""Whose an output folder is: empty, this run's own, or another's."""

from __future__ import annotations

from typing import Any

from rsray.config import Config, from_yaml
from rsray.errors import UserError
from rsray.storage import Folder

SHOWN = 3  # differences that an error names


def recorded(folder: Folder, record: str, config: Config, kind: str) -> dict[str, Any] | None:
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
        raise UserError(
            f"{folder} belongs to another {kind}: {'; '.join(differences[:SHOWN])}; "
            "use another --out"
        )
    return found
