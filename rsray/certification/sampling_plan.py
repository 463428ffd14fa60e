"""Which draws each image of a run gets: a pure function of its stored counts and the settings.

So a run can be resumed and checked from its counts alone, whoever drew them.
"""

# Shapes: N images, T estimation blocks per image, R radii.
from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from rsray.config import CertifyConfig
from rsray.core.bounds import BOUNDS
from rsray.core.bounds._base import Bound
from rsray.core.bounds.confidence_sequence import ConfidenceSequence
from rsray.core.bounds.reused_counts import REUSED_COUNTS
from rsray.core.evidence import Decision, Evidence
from rsray.core.pilot import blocks_worth, plausible
from rsray.storage.schemas import COUNTS, PAIRED_COUNTS, SOFT_COUNTS

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class SamplingPlan:
    """n0 selection draws (one block) and up to n estimation draws (in blocks) for each image."""

    n0: int
    n: int
    block_size: int
    sampling: str = "fixed"
    alpha: float = 0.001
    bound_name: str = "clopper-pearson"
    sigma: float = 1.0
    tolerance: float = 0.01
    at_radius: tuple[float, ...] = ()
    # How far the noise of a draw may be from the exact one.
    total_variation: float = 0.0
    seed: int = 0
    noise: str = "grid"
    inverse_temperature: float = 1.0
    # Whether counts of an earlier network are used, and draws made by both.
    is_paired: bool = False

    @classmethod
    def of(cls, config: CertifyConfig) -> SamplingPlan:
        """Return the plan of a run with these settings."""
        is_paired = config.reused_run is not None
        renamed: dict[str, Any] = {"bound_name": config.bound, "is_paired": is_paired}
        names = [each.name for each in fields(cls) if each.name not in renamed]
        return cls(**{name: getattr(config, name) for name in names}, **renamed)

    @property
    def bound(self) -> Bound:
        """What turns the counts into certificates."""
        if self.at_radius:
            return ConfidenceSequence(self.at_radius)
        return REUSED_COUNTS if self.is_paired else BOUNDS[self.bound_name]

    def decide(self, evidence: Evidence) -> Decision:
        """Return the certificates that the draws of images give."""
        return self.bound.decide(
            evidence, sigma=self.sigma, alpha=self.alpha, total_variation=self.total_variation
        )

    @property
    def counts_schema(self) -> pa.Schema:
        """The schema in which the counts are stored."""
        if self.is_paired:
            return PAIRED_COUNTS
        return SOFT_COUNTS if self.bound.is_soft else COUNTS

    @property
    def num_blocks(self) -> int:
        """The number of estimation blocks T of an image that gets all n draws."""
        return -(-self.n // self.block_size)

    def block_draws(self, block: int) -> int:
        """Return the draws of estimation block `block`: the last one may be short."""
        return min(self.block_size, self.n - block * self.block_size)

    @property
    def is_same_for_all(self) -> bool:
        """Whether every image gets all n draws."""
        return self.sampling == "fixed" and not self.at_radius

    def skips(self, selected_class_N: Ints, label_N: Ints) -> NDArray[np.bool_]:
        """Tell of which images the estimation draws cannot matter.

        Unless the sampling is fixed, that is an image whose selected class is not its label: it
        contributes 0 to ACR and to every certified accuracy whatever the estimation says
        (rsray/core/README.md, 4).
        """
        is_missed_N = (selected_class_N >= 0) & (selected_class_N != label_N)
        return np.asarray(is_missed_N & (self.sampling != "fixed"), dtype=np.bool_)

    def wanted_blocks(
        self, label_N: Ints, selected_class_N: Ints, selection_hits_N: NDArray[np.float64]
    ) -> Ints:
        """Return the most blocks [N] that images want, given their selection draws.

        All of them where there are none yet (class -1).
        """
        wanted_N = np.where(self.skips(selected_class_N, label_N), 0, self.num_blocks)
        if self.sampling == "adaptive":
            for i in np.flatnonzero((wanted_N > 0) & (selected_class_N >= 0)):
                wanted_N[i] = blocks_worth(
                    float(selection_hits_N[i]),
                    self.n0,
                    n=self.n,
                    block_size=self.block_size,
                    alpha=self.alpha,
                    bound=self.bound_name,
                    tolerance=self.tolerance,
                )
        return wanted_N

    def blocks_of_image(self, label: int, selected_class: int, selection_hits: float) -> int:
        """Return the most blocks that an image wants, given its selection draws."""
        label_1, class_1 = np.array([label]), np.array([selected_class])
        return int(self.wanted_blocks(label_1, class_1, np.array([selection_hits]))[0])

    def likely_blocks(self, label: int, selected_class: int, selection_hits: float) -> float:
        """Return how many blocks an image is likely to want, given its selection draws.

        With at-radius an estimate: the mean over what its probability may be, given them.
        """
        most = self.blocks_of_image(label, selected_class, selection_hits)
        if not (self.at_radius and most):
            return most
        draws_T = np.minimum(np.arange(1, most + 1) * self.block_size, self.n)
        hits_QT = plausible(selection_hits, self.n0)[:, None] * draws_T
        answered_QT = self.is_answered(hits_QT, draws_T)
        answered_QT[:, -1] = True
        return float(1 + answered_QT.argmax(axis=1).mean())

    def is_answered(self, hits: ArrayLike, draws: ArrayLike) -> NDArray[np.bool_]:
        """Tell for each image whether its draws so far answer every radius that was asked."""
        asked = ConfidenceSequence(self.at_radius)
        answers = asked.answers(
            hits,
            draws,
            sigma=self.sigma,
            alpha=self.alpha,
            total_variation=self.total_variation,
        )
        return np.asarray((answers != 0).all(axis=-1))

    def blocks_until_answered(self, hits_NT: NDArray[np.integer]) -> Ints:
        """Return after how many blocks each image's radii are answered, all of them if never.

        `hits_NT` holds the selected class's hits in each block; -1 where it is not stored.
        """
        sizes_T = np.array([self.block_draws(t) for t in range(self.num_blocks)])
        stored_NT = np.logical_and.accumulate(hits_NT >= 0, axis=1)
        hits_N = np.zeros(len(hits_NT), dtype=np.int64)
        wanted_N = np.full(len(hits_NT), len(sizes_T))
        for t, draws in enumerate(np.cumsum(sizes_T).tolist()):
            still = np.flatnonzero(stored_NT[:, t] & (wanted_N == len(sizes_T)))
            if not len(still):
                break
            hits_N[still] += hits_NT[still, t]
            is_answered = self.is_answered(hits_N[still], np.full(len(still), draws))
            wanted_N[still] = np.where(is_answered, t + 1, len(sizes_T))
        return wanted_N
