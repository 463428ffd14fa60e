"""Checkpoints after every epoch: one file each, written whole, loaded as data only."""

from __future__ import annotations

import io
import pickle
import zipfile
from typing import Any

import torch

from rsray.errors import UserError
from rsray.storage import Folder

KEEP = 2
FOLDER = "checkpoints"
DAMAGE = (
    zipfile.BadZipFile,
    RuntimeError,
    pickle.UnpicklingError,
    EOFError,
    KeyError,
    ValueError,
)


def save_checkpoint(run: Folder, epoch: int, state: dict[str, Any]) -> None:
    """Write the state after `epoch` epochs are done, and drop all but the newest two."""
    folder = (run / FOLDER).make()
    buffer = io.BytesIO()
    torch.save({"epoch": epoch, **state}, buffer)
    folder.write(_name(epoch), buffer.getvalue())
    for old in folder.names(".pt")[:-KEEP]:
        folder.delete(old)


def latest_checkpoint(run: Folder) -> dict[str, Any] | None:
    """Return the newest state, or None when there is none; UserError if the file is damaged."""
    folder = run / FOLDER
    names = folder.names(".pt")
    if not names:
        return None
    try:
        return _load(folder.read(names[-1]))
    except DAMAGE as problem:
        raise UserError(
            f"{folder}/{names[-1]} is damaged; delete it to continue from the epoch before"
        ) from problem


def _load(content: bytes) -> dict[str, Any]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if archive.testzip() is not None:  # torch.load does not look at the checksums
            raise zipfile.BadZipFile("a checksum is wrong")
    state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return state


def _name(epoch: int) -> str:
    return f"epoch-{epoch:05d}.pt"
