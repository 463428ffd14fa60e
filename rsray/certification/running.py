"""The running result of a certification: what is done, how fast, the ACR so far."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rsray.certification.demand import Demand
from rsray.certification.plan import Done, Draws, wants_estimation
from rsray.certification.store import Selected
from rsray.core.bounds import bernstein_lower, clopper_pearson_lower, hoeffding_lower
from rsray.core.bounds.confidence_sequence import sequence_lower
from rsray.core.radius import certified_radius

FEW = 10  # images from which a mean is taken


@dataclass
class Running:
    """Sums that grow as rows of counts arrive; memory follows the images in flight."""

    selected: Selected
    demand: Demand
    images_done: int = 0
    draws_made: int = 0  # in this start
    _radius_sum: float = 0.0
    _radius_squares: float = 0.0
    _scored: int = 0
    _open: dict[int, dict[str, Any]] = field(default_factory=dict)
    _started: float = field(default_factory=time.perf_counter)

    def begin(self, done: Done) -> None:
        """Count what an earlier start left; its images are not scored until the end."""
        wanted_N = done.wanted_N
        blocks = done.estimation_NT.sum(axis=1)
        tops, labels = done.selected_class_N.tolist(), self.selected.labels.tolist()
        for i, index in enumerate(self.selected.indices.tolist()):
            is_wanted = wants_estimation(tops[i], labels[i], self.demand.sampling)
            wanted = self.demand.draws.num_blocks if is_wanted else 0
            if wanted_N is not None:
                wanted = int(wanted_N[i])
            if done.selection_N[i] and blocks[i] >= wanted:
                self.images_done += 1
            elif done.selection_N[i] or blocks[i]:
                state = {"top": tops[i], "blocks": int(blocks[i]), "counts": None, "wanted": wanted}
                self._open[index] = state

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Add rows of counts as they arrive."""
        for row in rows:
            self.draws_made += row["draws"]
            state = self._open.setdefault(
                row["index"], {"top": -1, "blocks": 0, "counts": {}, "wanted": None}
            )
            if row["stage"] == "selection":
                values = row[self.demand.counted]
                best = int(np.argmax(values))
                state["top"] = int(row["classes"][best])
                state["wanted"] = self.demand.blocks(row["label"], state["top"], values[best])
            else:
                state["blocks"] += 1
                if state["counts"] is not None:
                    _add_counts(state["counts"], row)
            self._close_if_done(row["index"], row["label"], state)

    def _close_if_done(self, index: int, label: int, state: dict[str, Any]) -> None:
        if state["top"] < 0:
            return
        counts, rules = state["counts"], self.demand
        if state["blocks"] < state["wanted"]:
            if not (rules.at_radius and counts):
                return
            hits, draws = counts.get(state["top"], _NONE)[0], _draws(rules.draws, state["blocks"])
            if not rules.answered(int(hits), draws):
                return
        self.images_done += 1
        if counts is not None:
            right = state["top"] == label and state["blocks"] > 0
            radius = (
                self._radius(counts.get(state["top"], _NONE), state["blocks"]) if right else 0.0
            )
            self._radius_sum += radius
            self._radius_squares += radius**2
            self._scored += 1
        del self._open[index]

    def _radius(self, evidence: list[float], blocks: int) -> float:
        """Return an image's radius; for tcertify Clopper-Pearson's, which is seldom larger."""
        (hits, sums, squares), rules = evidence, self.demand
        n = _draws(rules.draws, blocks)
        if rules.at_radius:
            lower = sequence_lower(hits, n, rules.alpha)
        elif rules.bound == "hoeffding":
            lower = hoeffding_lower(sums, n, rules.alpha)
        elif rules.bound == "bernstein":
            lower = bernstein_lower(sums, squares, n, rules.alpha)
        else:
            lower = clopper_pearson_lower(hits, n, rules.alpha)
        return float(certified_radius(lower, rules.sigma))

    def snapshot(self, owed_draws: int, earlier_seconds: float) -> dict[str, Any]:
        """Return the figures of the progress line and of progress.json."""
        elapsed = time.perf_counter() - self._started
        speed = self.draws_made / elapsed if elapsed > 0 else 0.0
        is_mean = self._scored > 0 and not self.demand.at_radius  # there, radii are cut short
        mean = self._radius_sum / self._scored if is_mean else None
        error = None
        if mean is not None and self._scored > 1:
            spread = max(self._radius_squares - self._scored * mean**2, 0.0) / (self._scored - 1)
            error = math.sqrt(spread / self._scored)
        remaining = self._remaining(owed_draws)
        return {
            "images_done": self.images_done,
            "images": len(self.selected.indices),
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
        if self._scored < FEW or self.demand.is_alike:
            return most
        each = self.draws_made / self._scored  # what images came to so far
        return min(most, each * (len(self.selected.indices) - self.images_done))


_NONE = [0, 0.0, 0.0]  # hits, sum and sum of squares of a class that was not seen


def _draws(draws: Draws, blocks: int) -> int:
    return min(draws.n, blocks * draws.block_size)


def _add_counts(counts: dict[int, list[float]], row: dict[str, Any]) -> None:
    columns = [row["counts"], row.get("sums"), row.get("square_sums")]
    zeros = [0.0] * len(row["classes"])
    for cls, *values in zip(row["classes"], *(each or zeros for each in columns), strict=True):
        known = counts.get(cls, _NONE)
        counts[cls] = [old + new for old, new in zip(known, values, strict=True)]
