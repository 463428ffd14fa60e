"""Certificates of a network from the counts of an earlier one (Ugare et al., ICLR 2024).

Where the new network does not give class A though the earlier one does, P(A) is lost: so
P(new gives A) >= P(earlier gives A) - P(earlier gives A, new does not). The first is bounded by the
earlier network's counts, the second by draws that both networks made on the same noise
(../README.md, 8).
"""

# Shapes: N images.
from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from rsray.core.bounds._base import Bound, Floats
from rsray.core.bounds.clopper_pearson import clopper_pearson_lower, clopper_pearson_upper
from rsray.core.evidence import Evidence

# Statements that all hold with probability at least 1 - alpha: each has this share of alpha.
STATEMENTS = 3


class ReusedCounts(Bound):
    """The larger of two bounds: of the new network's own draws, and through the earlier counts."""

    name = "reused-counts"

    def lower(self, hits: ArrayLike, square_sums: ArrayLike, n: ArrayLike, alpha: float) -> Floats:
        """Return the bound of the new network's own draws."""
        return clopper_pearson_lower(hits, n, alpha / STATEMENTS)

    def about_smallest_n(self, alpha: float) -> float:
        """Return that of its own draws."""
        return math.log(alpha / STATEMENTS) / math.log(0.5)

    def lower_of(self, evidence: Evidence, alpha: float) -> Floats:
        """Return the bound of N images; the draws of the three statements may be the same."""
        own_N, reused = self.lower(evidence.hits, 0, evidence.n, alpha), evidence.reused
        if reused is None:
            return own_N
        share = alpha / STATEMENTS
        earlier_N = clopper_pearson_lower(reused.hits, reused.n, share)
        return np.maximum(
            own_N, earlier_N - clopper_pearson_upper(reused.lost, reused.pairs, share)
        )


def is_worth_pairing(top: ArrayLike, n: ArrayLike, pairs: int, alpha: float) -> np.ndarray:
    """Tell for which images [N] draws by both networks may say more than as many of the new one.

    `top` of n earlier draws gave the most frequent class. Both networks are taken to agree. Any
    choice is sound: an image without pairs has its own draws' bound.
    """
    share, hits, draws = alpha / STATEMENTS, np.asarray(top, dtype=float), np.asarray(n)
    expected = np.round(hits / np.maximum(draws, 1) * pairs)
    own = clopper_pearson_lower(expected, pairs, share)
    through = clopper_pearson_lower(hits, draws, share) - clopper_pearson_upper(0, pairs, share)
    return np.asarray((through > own) & (through > 0.5))


REUSED_COUNTS = ReusedCounts()
