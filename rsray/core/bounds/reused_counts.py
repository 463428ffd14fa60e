"""Certificates of a network from the counts of an earlier one (Ugare et al., ICLR 2024).

Where the new network does not give class A though the earlier one does, P(A) is lost: so
P(new gives A) >= P(earlier gives A) - P(earlier gives A, new does not). The first is bounded by the
earlier network's counts, the second by draws that both networks made on the same noise
(../README.md, 9).
"""

# Shapes: N images.
from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rsray.core.bounds._base import Bound, Floats
from rsray.core.bounds.clopper_pearson import clopper_pearson_lower, clopper_pearson_upper
from rsray.core.evidence import Evidence

# The parts of alpha: of the earlier counts, and of what the draws of the new network show.
EARLIER, NEW = 0.25, 0.75
# Draws that are taken to be lost before any is seen: networks that are near agree on most.
LOST_BEFORE = 0.1


class ReusedCounts(Bound):
    """Bounds p_A through the earlier counts, or by the new network's own draws.

    Which of them is decided by draws that are independent of the new network's estimation draws.
    """

    name = "reused-counts"

    def lower(self, hits: ArrayLike, square_sums: ArrayLike, n: ArrayLike, alpha: float) -> Floats:
        """Return the bound of the new network's own draws."""
        return clopper_pearson_lower(hits, n, NEW * alpha)

    def lower_of(self, evidence: Evidence, alpha: float) -> Floats:
        """Return the bound of N images; it holds with probability at least 1 - alpha."""
        own_N, reused = self.lower(evidence.hits, 0, evidence.n, alpha), evidence.reused
        if reused is None:
            return own_N
        is_better_N = (reused.pairs > 0) & pairs_say_more(
            reused.hits, reused.n, reused.lost_in_selection, evidence.n0, reused.pairs, alpha
        )
        lost_N = clopper_pearson_upper(reused.lost, reused.pairs, NEW * alpha)
        earlier_N = clopper_pearson_lower(reused.hits, reused.n, EARLIER * alpha)
        return np.where(is_better_N, earlier_N - lost_N, own_N)


def pairs_say_more(
    hits: ArrayLike,
    n: ArrayLike,
    lost_in_selection: ArrayLike,
    n0: ArrayLike,
    pairs: ArrayLike,
    alpha: float,
) -> NDArray[np.bool_]:
    """Tell for which images [N] pairs are likely to give more than as many of the new draws alone.

    By the hits among n earlier draws, and those that were lost among n0 draws of the selection. The
    choice depends on nothing else, so it is independent of the pairs.
    """
    hits_, draws = np.asarray(hits, dtype=float), np.maximum(np.asarray(n, dtype=float), 1.0)
    made = np.asarray(pairs, dtype=float)
    share_lost = (np.asarray(lost_in_selection) + LOST_BEFORE) / (np.asarray(n0) + 1.0)
    own = clopper_pearson_lower(np.round(hits_ / draws * made), made, NEW * alpha)
    lost = clopper_pearson_upper(np.round(share_lost * made), made, NEW * alpha)
    through = clopper_pearson_lower(hits_, draws, EARLIER * alpha) - lost
    return np.asarray((through > own) & (through > 0.5))


REUSED_COUNTS = ReusedCounts()
