"""How many estimation blocks an image wants: a pure function of its stored counts and the settings.

So a run can be resumed and checked from its counts alone, whoever drew them.
"""

# Shapes: N images, T estimation blocks per image, R radii.
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from rsray.certification.plan import Draws, wants_estimation
from rsray.core.bounds import SOFT_BOUNDS
from rsray.core.bounds.confidence_sequence import answers
from rsray.core.pilot import blocks_worth, plausible


@dataclass(frozen=True)
class Demand:
    """The settings of a run that decide which draws an image gets."""

    draws: Draws
    sampling: str
    alpha: float = 0.001
    bound: str = "clopper-pearson"
    sigma: float = 1.0
    tolerance: float = 0.01
    at_radius: tuple[float, ...] = ()

    @property
    def soft(self) -> bool:
        """Whether sums of soft probabilities are kept, and select the class."""
        return self.bound in SOFT_BOUNDS

    @property
    def counted(self) -> str:
        """The column of the counts whose largest entry is the selected class."""
        return "sums" if self.soft else "counts"

    @property
    def is_alike(self) -> bool:
        """Whether every image gets all n draws."""
        return self.sampling == "fixed" and not self.at_radius

    @property
    def decides_per_image(self) -> bool:
        """Whether images want different numbers of blocks beyond all or none."""
        return self.sampling == "adaptive" or bool(self.at_radius)

    def blocks(self, label: int, selected_class: int, selection_hits: float) -> int:
        """Return the most blocks an image wants, given its selection draws."""
        if not wants_estimation(selected_class, label, self.sampling):
            return 0
        if self.sampling != "adaptive" or selected_class < 0:
            return self.draws.num_blocks
        return blocks_worth(
            selection_hits,
            self.draws.n0,
            n=self.draws.n,
            block_size=self.draws.block_size,
            alpha=self.alpha,
            bound=self.bound,
            tolerance=self.tolerance,
        )

    def likely_blocks(self, label: int, selected_class: int, selection_hits: float) -> float:
        """Return how many blocks an image is likely to want, given its selection draws.

        With at-radius an estimate: the mean over what its probability may be, given them.
        """
        most = self.blocks(label, selected_class, selection_hits)
        if not (self.at_radius and most):
            return most
        draws_T = np.minimum(np.arange(1, most + 1) * self.draws.block_size, self.draws.n)
        hits_QT = plausible(selection_hits, self.draws.n0)[:, None] * draws_T
        answered_QT = self.answered(hits_QT, draws_T)
        answered_QT[:, -1] = True
        return float(1 + answered_QT.argmax(axis=1).mean())

    def answered(self, hits: ArrayLike, draws: ArrayLike) -> NDArray[np.bool_]:
        """Tell for each image whether its draws so far answer every radius that was asked."""
        thresholds_R = special.ndtr(np.asarray(self.at_radius) / self.sigma)
        return np.asarray((answers(hits, draws, thresholds_R, self.alpha) != 0).all(axis=-1))

    def blocks_until_answered(self, hits_NT: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return after how many blocks each image's radii are answered, all of them if never.

        `hits_NT` holds the selected class's hits in each block; -1 where it is not stored.
        """
        sizes_T = np.array([self.draws.block_draws(t) for t in range(self.draws.num_blocks)])
        stored_NT = np.logical_and.accumulate(hits_NT >= 0, axis=1)
        hits_N = np.zeros(len(hits_NT), dtype=np.int64)
        wanted_N = np.full(len(hits_NT), len(sizes_T))
        for t, draws in enumerate(np.cumsum(sizes_T).tolist()):
            still = stored_NT[:, t] & (wanted_N == len(sizes_T))
            if not still.any():
                break
            hits_N[still] += hits_NT[still, t]
            wanted_N[still] = np.where(
                self.answered(hits_N[still], np.full(int(still.sum()), draws)),
                t + 1,
                len(sizes_T),
            )
        return wanted_N
