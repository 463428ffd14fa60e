"""When the workers of a run make a checkpoint inside an epoch: all of them after the same step."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

# Workers ask each other whether it is time once in so many seconds: it makes a GPU wait.
LOOK_EVERY_SECONDS = 5.0


class CheckpointClock:
    """Tells every worker after the same step that a checkpoint is due.

    The first worker's clock decides. A notice that machines will be taken away makes one due, too;
    it is the same for all workers.
    """

    def __init__(
        self,
        minutes: float,
        device: torch.device,
        sum_over: Callable[[Tensor], Tensor],
        *,
        is_first: bool = True,
        notice: Callable[[], object] = lambda: None,
    ) -> None:
        """Start now. With 0 `minutes` a checkpoint is due on notice alone."""
        self.seconds, self.device = minutes * 60 or float("inf"), device
        self.sum_over, self.is_first, self.notice = sum_over, is_first, notice
        self.last_checkpoint = self.last_look = time.monotonic()
        self.noticed: object = None
        # Between two looks, and until the next.
        self.steps = self.steps_left = 1

    def is_due(self) -> bool:
        """Tell whether to make a checkpoint now; every worker asks after each of its steps."""
        self.steps_left -= 1
        if self.steps_left > 0:
            return False
        spent, since_checkpoint = self._first_workers_times()
        self.steps = self.steps_left = max(1, int(LOOK_EVERY_SECONDS * self.steps / spent))
        noticed, self.noticed = self.noticed, self.notice()
        is_new = self.noticed is not None and self.noticed != noticed
        return is_new or since_checkpoint >= self.seconds

    def restart(self) -> None:
        """Note that a checkpoint was made."""
        self.last_checkpoint = time.monotonic()

    def _first_workers_times(self) -> tuple[float, float]:
        """Return the first worker's seconds since its last look and since the last checkpoint."""
        now = time.monotonic()
        mine = [now - self.last_look, now - self.last_checkpoint] if self.is_first else [0.0, 0.0]
        self.last_look = now
        times = self.sum_over(torch.tensor(mine, dtype=torch.float64, device=self.device))
        spent, since_checkpoint = times.tolist()
        return max(spent, 1e-6), since_checkpoint
