"""Checkpoints after every epoch: one file each, written whole, loaded as data only.

They are written by a thread, so that training goes on while an object store takes its time.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

import torch

from rsray.errors import UserError
from rsray.storage import Place

KEPT_CHECKPOINTS = 2
CHECKPOINTS_FOLDER, EPOCH_PREFIX = "checkpoints", "epoch-"
# What loading a file that is cut off or changed may raise.
DAMAGED_FILE_ERRORS = (
    zipfile.BadZipFile,
    RuntimeError,
    pickle.UnpicklingError,
    EOFError,
    KeyError,
    ValueError,
)


def save_checkpoint(run: Place, epoch: int, state: dict[str, Any]) -> None:
    """Write the state after `epoch` epochs are done, and drop all but the newest two."""
    folder = (run / CHECKPOINTS_FOLDER).make()
    buffer = io.BytesIO()
    torch.save({"epoch": epoch, **state}, buffer)
    folder.write(_file_name(epoch), buffer.getvalue())
    for old in folder.names(".pt")[:-KEPT_CHECKPOINTS]:
        folder.delete(old)


def latest_epoch(run: Place) -> int:
    """Return how many epochs the newest checkpoint has done; 0 when there is none."""
    names = (run / CHECKPOINTS_FOLDER).names(".pt")
    return int(names[-1].removeprefix(EPOCH_PREFIX).removesuffix(".pt")) if names else 0


def load_checkpoint(run: Place, epoch: int) -> dict[str, Any]:
    """Return the state after `epoch` epochs; UserError if the file is damaged."""
    folder = run / CHECKPOINTS_FOLDER
    try:
        return _load(folder.read(_file_name(epoch)))
    except DAMAGED_FILE_ERRORS as problem:
        raise UserError(
            f"{folder}/{_file_name(epoch)} is damaged; delete it to continue from the epoch before"
        ) from problem


class Uploads:
    """Writes in a thread, one piece of work at a time, in order; what fails stops the training.

    Leaving the `with` block waits for what is under way.
    """

    def __init__(self) -> None:
        """Start with nothing to write."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rsray-upload")
        self._last: Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin `work` once the work before is done; raises what that one raised."""
        self.wait()
        self._last = self._thread.submit(work)

    def wait(self) -> None:
        """Wait until everything is written; raises what the last work raised."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def __enter__(self) -> Self:
        """Return the uploads themselves."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the last write."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()


def copy_to_cpu(state: Any) -> Any:
    """Return a state whose tensors are copies on the CPU, which the next step leaves alone."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        # A schedule keeps its drops in a Counter, which torch loads as a Counter only.
        kind = type(state)
        return kind({key: copy_to_cpu(value) for key, value in state.items()})
    return [copy_to_cpu(value) for value in state] if isinstance(state, list) else state


def _load(content: bytes) -> dict[str, Any]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        # torch.load does not look at the checksums.
        if archive.testzip() is not None:
            raise zipfile.BadZipFile("a checksum is wrong")
    state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return state


def _file_name(epoch: int) -> str:
    return f"{EPOCH_PREFIX}{epoch:05d}.pt"
