"""Checkpoints after and inside epochs: one file each, written whole, loaded as data only."""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from typing import Any, NamedTuple

import torch

from rsray.errors import UserError
from rsray.storage import Place

KEPT_CHECKPOINTS = 2
CHECKPOINTS_FOLDER = "checkpoints"
FILE_NAME = re.compile(r"epoch-(\d+)(?:\.step-(\d+))?\.pt")
# What loading a file that is cut off or changed may raise.
DAMAGED_FILE_ERRORS = (
    zipfile.BadZipFile,
    RuntimeError,
    pickle.UnpicklingError,
    EOFError,
    KeyError,
    ValueError,
)


class Position(NamedTuple):
    """How far a run is: so many epochs, and so many steps of the next one."""

    epoch: int = 0
    step: int = 0

    def __str__(self) -> str:
        """Return it in words."""
        return f"{self.epoch} epochs" + (f" and {self.step} steps" if self.step else "")

    @property
    def file_name(self) -> str:
        """The name of the checkpoint."""
        inside = f".step-{self.step:09d}" if self.step else ""
        return f"epoch-{self.epoch:05d}{inside}.pt"


def save_checkpoint(run: Place, position: Position, state: dict[str, Any]) -> None:
    """Write the state at a position, and drop all but the newest two."""
    folder = (run / CHECKPOINTS_FOLDER).make()
    buffer = io.BytesIO()
    torch.save({**position._asdict(), **state}, buffer)
    folder.write(position.file_name, buffer.getvalue())
    for old in sorted(_positions(folder))[:-KEPT_CHECKPOINTS]:
        folder.delete(old.file_name)


def latest_position(run: Place) -> Position:
    """Return where the newest checkpoint stands; at the start of the run when there is none."""
    return max(_positions(run / CHECKPOINTS_FOLDER), default=START)


def _positions(folder: Place) -> list[Position]:
    found = map(FILE_NAME.fullmatch, folder.names(".pt"))
    return [Position(int(name[1]), int(name[2] or 0)) for name in found if name]


def load_checkpoint(run: Place, position: Position) -> dict[str, Any]:
    """Return the state at a position; UserError if the file is damaged."""
    folder = run / CHECKPOINTS_FOLDER
    try:
        content = folder.read(position.file_name)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            # torch.load does not look at the checksums.
            if archive.testzip() is not None:
                raise zipfile.BadZipFile("a checksum is wrong")
        state: dict[str, Any] = torch.load(
            io.BytesIO(content), map_location="cpu", weights_only=True
        )
    except DAMAGED_FILE_ERRORS as problem:
        raise UserError(
            f"{folder}/{position.file_name} is damaged; delete it to continue from the one before"
        ) from problem
    return state


START = Position()


def copy_to_cpu(state: Any) -> Any:
    """Return a state whose tensors are copies on the CPU, which the next step leaves alone."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        # A schedule keeps its drops in a Counter, which torch loads as a Counter only.
        kind = type(state)
        return kind({key: copy_to_cpu(value) for key, value in state.items()})
    return [copy_to_cpu(value) for value in state] if isinstance(state, list) else state
