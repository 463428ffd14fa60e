"""The progress of a certification: what is done, how fast, the ACR so far."""

# Shapes: N selected images.
from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsray.certification.counts.gathering import GatheredCounts

# A mean over fewer images says too little.
FEWEST_IMAGES_FOR_A_MEAN = 10


class Progress:
    """Figures that follow the tables of counts as they arrive, by the certificates' own bound."""

    def __init__(self, gathered: GatheredCounts) -> None:
        """Begin with what an earlier start left; its images are not scored until the end."""
        self.gathered, self.plan = gathered, gathered.plan
        everyone = np.arange(len(gathered.selected.indices))
        self._is_done_N = gathered.is_complete(everyone)
        self._is_fresh_N = ~(gathered.selection_N | gathered.estimation_NT.any(axis=1))
        self.images_done = int(self._is_done_N.sum())
        # In this start.
        self.draws_made = 0
        self._scored = 0
        self._radius_sum = self._radius_squares = 0.0
        self.start()

    def start(self) -> None:
        """Let the time run from now on."""
        self._started = time.perf_counter()

    def add(self, table: pa.Table) -> None:
        """Add rows of counts as they arrive."""
        if not len(table):
            return
        self.draws_made += pc.sum(table["draws"]).as_py()
        position = self.gathered.add(table)
        position = position[~self._is_done_N[position]]
        position = position[self.gathered.is_complete(position)]
        self._is_done_N[position] = True
        self.images_done += len(position)
        fresh = position[self._is_fresh_N[position]]
        if len(fresh):
            self._score(fresh)

    def _score(self, position: np.ndarray) -> None:
        decision = self.plan.decide(self.gathered.evidence(position))
        is_correct = decision.prediction == self.gathered.selected.labels[position]
        radius = np.where(is_correct, decision.radius, 0.0)
        self._radius_sum += float(radius.sum())
        self._radius_squares += float((radius**2).sum())
        self._scored += len(position)

    def snapshot(self, owed_draws: int, earlier_seconds: float) -> dict[str, Any]:
        """Return the figures of the progress line and of progress.json."""
        elapsed = time.perf_counter() - self._started
        speed = self.draws_made / elapsed if elapsed > 0 else 0.0
        # With at-radius the draws of an image stop early, and its radius with them.
        is_mean = self._scored > 0 and not self.plan.at_radius
        mean = self._radius_sum / self._scored if is_mean else None
        error = None
        if mean is not None and self._scored > 1:
            spread = max(self._radius_squares - self._scored * mean**2, 0.0) / (self._scored - 1)
            error = math.sqrt(spread / self._scored)
        remaining = self._remaining(owed_draws)
        return {
            "images_done": self.images_done,
            "images": len(self._is_done_N),
            "draws": self.draws_made,
            "draws_owed": owed_draws,
            "draws_per_second": speed,
            "acr": mean,
            "acr_standard_error": error,
            "images_scored": self._scored,
            "seconds": earlier_seconds + (elapsed if self.draws_made else 0.0),
            "seconds_left": remaining / speed if speed > 0 else None,
        }

    def _remaining(self, owed_draws: int) -> float:
        """Return the draws that are likely still to be made, at most those that are owed."""
        most = max(owed_draws - self.draws_made, 0)
        if self._scored < FEWEST_IMAGES_FOR_A_MEAN or self.plan.is_same_for_all:
            return most
        draws_per_image = self.draws_made / self._scored
        return min(most, draws_per_image * (len(self._is_done_N) - self.images_done))
