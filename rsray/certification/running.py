"""The running result of a certification: what is done, how fast, the ACR so far."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rsray.certification.plan import Done, Draws, wants_estimation
from rsray.certification.store import Selected
from rsray.core.bounds import clopper_pearson_lower
from rsray.core.radius import certified_radius


@dataclass
class Running:
    """Sums that grow as rows of counts arrive; memory follows the images in flight."""

    selected: Selected
    draws: Draws
    sigma: float
    alpha: float
    sampling: str
    images_done: int = 0
    draws_made: int = 0  # in this start
    _radius_sum: float = 0.0
    _radius_squares: float = 0.0
    _scored: int = 0
    _open: dict[int, dict[str, Any]] = field(default_factory=dict)
    _started: float = field(default_factory=time.perf_counter)

    def begin(self, done: Done) -> None:
        """Count what an earlier start left; its images are not scored until the end."""
        blocks = done.estimation_NT.sum(axis=1)
        tops, labels = done.selected_class_N.tolist(), self.selected.labels.tolist()
        for i, index in enumerate(self.selected.indices.tolist()):
            wanted = (
                self.draws.num_blocks if wants_estimation(tops[i], labels[i], self.sampling) else 0
            )
            if done.selection_N[i] and blocks[i] >= wanted:
                self.images_done += 1
            elif done.selection_N[i] or blocks[i]:
                self._open[index] = {"top": tops[i], "blocks": int(blocks[i]), "counts": None}

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Add rows of counts as they arrive."""
        for row in rows:
            self.draws_made += row["draws"]
            state = self._open.setdefault(row["index"], {"top": -1, "blocks": 0, "counts": {}})
            if row["stage"] == "selection":
                state["top"] = int(row["classes"][int(np.argmax(row["counts"]))])
            else:
                state["blocks"] += 1
                if state["counts"] is not None:
                    for cls, count in zip(row["classes"], row["counts"], strict=True):
                        state["counts"][cls] = state["counts"].get(cls, 0) + count
            self._close_if_done(row["index"], row["label"], state)

    def _close_if_done(self, index: int, label: int, state: dict[str, Any]) -> None:
        if state["top"] < 0:
            return
        wanted = (
            self.draws.num_blocks if wants_estimation(state["top"], label, self.sampling) else 0
        )
        if state["blocks"] < wanted:
            return
        self.images_done += 1
        counts = state["counts"]
        if counts is not None:
            hits = counts.get(state["top"], 0) if wanted else 0
            lower = clopper_pearson_lower(hits, self.draws.n, self.alpha)
            radius = float(certified_radius(lower, self.sigma)) if state["top"] == label else 0.0
            self._radius_sum += radius
            self._radius_squares += radius**2
            self._scored += 1
        del self._open[index]

    def snapshot(self, owed_draws: int, earlier_seconds: float) -> dict[str, Any]:
        """Return the figures of the progress line and of progress.json."""
        elapsed = time.perf_counter() - self._started
        speed = self.draws_made / elapsed if elapsed > 0 else 0.0
        mean = self._radius_sum / self._scored if self._scored else None
        error = None
        if mean is not None and self._scored > 1:
            spread = max(self._radius_squares - self._scored * mean**2, 0.0) / (self._scored - 1)
            error = math.sqrt(spread / self._scored)
        remaining = max(owed_draws - self.draws_made, 0)
        return {
            "images_done": self.images_done,
            "images": len(self.selected.indices),
            "draws": self.draws_made,
            "draws_owed": owed_draws,
            "draws_per_second": speed,
            "acr": mean,
            "acr_standard_error": error,
            "images_scored": self._scored,
            "seconds": earlier_seconds + elapsed,
            "seconds_left": remaining / speed if speed > 0 else None,
        }
