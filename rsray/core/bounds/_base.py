"""What every bound has in common: from the evidence of an image's draws to its certificate."""

# Shapes: N images.
from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rsray.core.evidence import ABSTAIN, Decision, Evidence
from rsray.core.radius import certified_radius

Floats = NDArray[np.float64]
# No n beyond is asked for.
MOST_DRAWS = 2**31


class Bound(ABC):
    """A way to bound the probability of an image's selected class from below."""

    name: ClassVar[str]
    # Whether it bounds the mean soft probability, and needs sums of them; else hits are enough.
    is_soft: ClassVar[bool] = False
    # Whether it needs the count of the most frequent class but the selected one, too.
    needs_runner_up: ClassVar[bool] = False
    # Whether it needs a uniform number of each image.
    is_randomized: ClassVar[bool] = False

    @abstractmethod
    def lower(self, hits: ArrayLike, square_sums: ArrayLike, n: ArrayLike, alpha: float) -> Floats:
        """Return the lower bound of p from the hits (soft: the sum of probabilities) in n draws.

        With probability at least 1 - alpha over the draws it is at most p.
        """

    def lower_of_all_hits(self, n: int, alpha: float) -> float:
        """Return the lower bound when all n draws hit."""
        return float(self.lower(n, n, n, alpha))

    def smallest_useful_n(self, alpha: float) -> int:
        """Return the smallest n for which n hits in n draws certify anything: a bound above 1/2."""
        draws = range(1, MOST_DRAWS)
        return draws[bisect_right(draws, 0.5, key=lambda n: self.lower_of_all_hits(n, alpha))]

    def lower_of(self, evidence: Evidence, alpha: float) -> Floats:
        """Return the lower bound of each of N images, as `lower`."""
        hits_N = evidence.sums if self.is_soft else evidence.hits
        return self.lower(hits_N, evidence.square_sums, evidence.n, alpha)

    def decide(
        self, evidence: Evidence, *, sigma: float, alpha: float, total_variation: float = 0.0
    ) -> Decision:
        """Return the certificates that the draws of N images give.

        With probability at least 1 - alpha over an image's draws, its smoothed classifier predicts
        the class everywhere within the radius. Images whose bound is at most 1/2, or without
        estimation draws, abstain with radius 0. `total_variation` is how far the noise of a draw
        may be from the exact Gaussian: it comes off the bound.
        """
        lower_N = np.maximum(self.lower_of(evidence, alpha) - total_variation, 0.0)
        return Decision(
            prediction=np.where(lower_N > 0.5, evidence.selected_class, ABSTAIN).astype(np.int32),
            radius=certified_radius(lower_N, sigma),
            p_a_lower=lower_N,
            p_b_upper=1.0 - lower_N,
            count_a=evidence.hits,
            n=evidence.n,
        )
