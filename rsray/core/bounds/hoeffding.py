"""Hoeffding's bound of a mean soft probability (MACER paper, appendix A.2, equation 23)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rsray.core.bounds._base import Bound, Floats


def hoeffding_lower(sums: ArrayLike, n: ArrayLike, alpha: ArrayLike) -> Floats:
    """Return the lower bound of the mean of values in [0, 1] with sum `sums` over `n` draws.

    Holds with probability at least 1 - alpha over the draws; 0 without draws.
    """
    total, draws = np.asarray(sums, dtype=np.float64), np.asarray(n, dtype=np.float64)
    made = np.maximum(draws, 1.0)
    margin = np.sqrt(-np.log(np.asarray(alpha, dtype=np.float64)) / (2.0 * made))
    return np.where(draws > 0, np.maximum(total / made - margin, 0.0), 0.0)


class Hoeffding(Bound):
    """Certifies the SOFT smoothed classifier argmax_c E softmax_c(x + noise).

    That is another classifier than Cohen et al.'s, which counts classes. `count_a` of its
    certificates stays the hard count.
    """

    name = "hoeffding"
    is_soft = True

    def lower(self, hits: ArrayLike, square_sums: ArrayLike, n: ArrayLike, alpha: float) -> Floats:
        """Return Hoeffding's lower bound of the mean probability."""
        return hoeffding_lower(hits, n, alpha)


HOEFFDING = Hoeffding()
