"""What a run writes while it trains: the lines of its epochs and its checkpoints, by a thread."""

from __future__ import annotations

from typing import Any, Self

from rsray.storage import Place
from rsray.training.run_folder.checkpoint import Position, Uploads, copy_to_cpu, save_checkpoint
from rsray.training.run_folder.metrics import MetricsLog


class RunWriter:
    """Writes into RUN; leaving the `with` block waits for what is under way."""

    def __init__(self, run: Place, epochs_done: int) -> None:
        """Continue the file of a run that has done so many epochs."""
        self._run, self._log, self._uploads = run, MetricsLog(run, epochs_done), Uploads()

    def save(
        self, position: Position, state: dict[str, Any], figures: dict[str, Any] | None = None
    ) -> None:
        """Begin to write an epoch's figures, where it ended, and a checkpoint."""
        kept = copy_to_cpu(state)

        def write() -> None:
            # The line comes first: one beyond the last checkpoint is dropped on resuming.
            if figures is not None:
                self._log.add(figures)
            save_checkpoint(self._run, position, kept)

        self._uploads.start(write)

    def __enter__(self) -> Self:
        """Return the writer itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the last write."""
        self._uploads.__exit__()
        self._log.close()
