"""What a run writes while it trains: the lines of its epochs and its checkpoints, by a thread."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

from rsray.storage import Place
from rsray.training.run_folder.checkpoint import Position, copy_to_cpu, save_checkpoint
from rsray.training.run_folder.metrics import MetricsLog


class RunWriter:
    """Writes into RUN in a thread, in order; what fails there stops the training.

    Leaving the `with` block waits for what is under way.
    """

    def __init__(self, run: Place, epochs_done: int) -> None:
        """Continue the file of a run that has done so many epochs."""
        self._run, self._log = run, MetricsLog(run, epochs_done)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rsray-upload")
        self._last: Future[None] | None = None

    def save(
        self, position: Position, state: dict[str, Any], figures: dict[str, Any] | None = None
    ) -> None:
        """Begin to write an epoch's figures, where it ended, and a checkpoint.

        Waits for what was begun before, and raises what that raised.
        """
        kept = copy_to_cpu(state)

        def write() -> None:
            # The line comes first: one beyond the last checkpoint is dropped on resuming.
            if figures is not None:
                self._log.add(figures)
            save_checkpoint(self._run, position, kept)

        self._wait()
        self._last = self._thread.submit(write)

    def _wait(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def __enter__(self) -> Self:
        """Return the writer itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the last write."""
        try:
            self._wait()
        finally:
            self._thread.shutdown()
        self._log.close()
