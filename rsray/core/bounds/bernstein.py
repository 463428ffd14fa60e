"""The empirical Bernstein bound of a mean soft probability (MACER paper, equation 26)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from rsray.core.bounds._base import Bound, Floats


def bernstein_lower(
    sums: ArrayLike, square_sums: ArrayLike, n: ArrayLike, alpha: ArrayLike
) -> Floats:
    """Return the empirical Bernstein lower bound of the mean of values in [0, 1].

    MACER paper, equations (24)-(26), after Maurer & Pontil (2009), theorem 4. Holds with
    probability at least 1 - alpha over the draws; 0 for fewer than 2 draws.
    """
    total, made = np.asarray(sums, dtype=np.float64), np.asarray(n, dtype=np.float64)
    draws = np.maximum(made, 2.0)
    log_term = np.log(2.0 / np.asarray(alpha, dtype=np.float64))
    spread = np.asarray(square_sums, dtype=np.float64) - total**2 / draws
    variance = np.maximum(spread, 0.0) / (draws - 1.0)
    margin = np.sqrt(2.0 * variance * log_term / draws) + 7.0 * log_term / (3.0 * (draws - 1.0))
    return np.where(made >= 2, np.maximum(total / draws - margin, 0.0), 0.0)


class Bernstein(Bound):
    """Certifies the SOFT smoothed classifier, as Hoeffding's does, with the variance seen."""

    name = "bernstein"
    is_soft = True

    def lower(self, hits: ArrayLike, square_sums: ArrayLike, n: ArrayLike, alpha: float) -> Floats:
        """Return the empirical Bernstein lower bound of the mean probability."""
        return bernstein_lower(hits, square_sums, n, alpha)


BERNSTEIN = Bernstein()
