"""Clopper-Pearson: the exact bound of a probability from hits (Clopper & Pearson 1934)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from rsray.core.bounds._base import Bound, Floats


def clopper_pearson_lower(counts: ArrayLike, n: ArrayLike, alpha: ArrayLike) -> Floats:
    """Return the exact lower bound of p from `counts` hits in `n` draws.

    With probability at least 1 - alpha over the draws the bound is at most p. It equals
    `statsmodels.proportion_confint(counts, n, 2 * alpha, method="beta")[0]`; 0 without hits.
    """
    hits, draws = _checked(counts, n)
    tail = np.asarray(alpha, dtype=np.float64)
    if not np.all((tail > 0) & (tail < 1)):
        raise ValueError("alpha must be between 0 and 1")
    safe_hits = np.where(hits > 0, hits, 1.0)
    lower = special.betaincinv(safe_hits, np.maximum(draws - safe_hits, 0.0) + 1.0, tail)
    return np.where(hits > 0, lower, 0.0)


def clopper_pearson_upper(counts: ArrayLike, n: ArrayLike, alpha: ArrayLike) -> Floats:
    """Return the exact upper bound of p from `counts` hits in `n` draws; 1 when every draw hit."""
    hits, draws = _checked(counts, n)
    return 1.0 - clopper_pearson_lower(draws - hits, draws, alpha)


class ClopperPearson(Bound):
    """Cohen et al.'s CERTIFY (ICML 2019, section 3.2.2)."""

    name = "clopper-pearson"

    def lower(self, hits: ArrayLike, square_sums: ArrayLike, n: ArrayLike, alpha: float) -> Floats:
        """Return the exact lower bound."""
        return clopper_pearson_lower(hits, n, alpha)

    def lower_of_all_hits(self, n: int, alpha: float) -> float:
        """Return alpha^(1/n), which rounds better than the general formula."""
        return float(alpha ** (1.0 / n))


def _checked(counts: ArrayLike, n: ArrayLike) -> tuple[Any, Any]:
    hits, draws = np.asarray(counts, dtype=np.float64), np.asarray(n, dtype=np.float64)
    if np.any((hits < 0) | (hits > draws)):
        raise ValueError("counts must be between 0 and n")
    return hits, draws


CLOPPER_PEARSON = ClopperPearson()
