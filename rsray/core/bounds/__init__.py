"""From hits or moments of n draws to a one-sided confidence bound on a probability.

Every function is vectorised in float64. "With probability at least 1 - alpha over the draws" is
meant for each element on its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from rsray.errors import UserError

Floats = NDArray[np.float64]
BOUNDS = ("clopper-pearson", "tcertify", "hoeffding", "bernstein")
SOFT_BOUNDS = ("hoeffding", "bernstein")  # of the mean soft probability, not of hits


def clopper_pearson_lower(counts: ArrayLike, n: ArrayLike, alpha: ArrayLike) -> Floats:
    """Return the exact lower bound of p from `counts` hits in `n` draws (Clopper & Pearson 1934).

    With probability at least 1 - alpha over the draws the bound is at most p. It equals
    `statsmodels.proportion_confint(counts, n, 2 * alpha, method="beta")[0]`; 0 without hits.
    """
    hits, draws = _hits(counts, n)
    tail = np.asarray(alpha, dtype=np.float64)
    safe_hits = np.where(hits > 0, hits, 1.0)
    lower = special.betaincinv(safe_hits, np.maximum(draws - safe_hits, 0.0) + 1.0, tail)
    return np.where(hits > 0, lower, 0.0)


def clopper_pearson_upper(counts: ArrayLike, n: ArrayLike, alpha: ArrayLike) -> Floats:
    """Return the exact upper bound of p from `counts` hits in `n` draws; 1 when every draw hit."""
    hits, draws = _hits(counts, n)
    return 1.0 - clopper_pearson_lower(draws - hits, draws, alpha)


def hoeffding_lower(sums: ArrayLike, n: ArrayLike, alpha: ArrayLike) -> Floats:
    """Return the lower bound of the mean of values in [0, 1] with sum `sums` over `n` draws.

    MACER paper, equation (23). Holds with probability at least 1 - alpha over the draws; 0
    without draws.
    """
    total, draws = np.asarray(sums, dtype=np.float64), np.asarray(n, dtype=np.float64)
    made = np.maximum(draws, 1.0)
    margin = np.sqrt(-np.log(np.asarray(alpha, dtype=np.float64)) / (2.0 * made))
    return np.where(draws > 0, np.maximum(total / made - margin, 0.0), 0.0)


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


def smallest_useful_n(alpha: float, bound: str = "clopper-pearson") -> int:
    """Return the smallest n for which n hits in n draws certify anything: a bound above 1/2."""
    n = max(2, int(np.floor(_useful_draws(alpha, bound)))) - 1
    while n < 1 or _lower_of_all_hits(n, alpha, bound) <= 0.5:
        n += 1
    return n


def _useful_draws(alpha: float, bound: str) -> float:
    if bound == "hoeffding":
        return float(-2.0 * np.log(alpha))
    if bound == "bernstein":
        return float(1.0 + 14.0 / 3.0 * np.log(2.0 / alpha))
    return float(np.log(alpha) / np.log(0.5))


def _lower_of_all_hits(n: int, alpha: float, bound: str) -> float:
    if bound == "hoeffding":
        return float(hoeffding_lower(n, n, alpha))
    if bound == "bernstein":
        return float(bernstein_lower(n, n, n, alpha)) if n > 1 else 0.0
    return float(alpha ** (1.0 / n))


def check_settings(n: int, alpha: float, n0: int = 1, bound: str = "clopper-pearson") -> None:
    """Raise UserError for n0, n or alpha with which nothing could ever be certified."""
    if not 0 < alpha < 1:
        raise UserError(f"alpha is {alpha}: it must be between 0 and 1, for example 0.001")
    if n0 < 1:
        raise UserError(f"n0 is {n0}: selection needs at least 1 draw, for example 100")
    least = smallest_useful_n(alpha, bound)
    if n < least:
        by = "" if bound in ("clopper-pearson", "tcertify") else f" by the {bound} bound"
        raise UserError(
            f"n is {n}: even if every draw hit, nothing could be certified at alpha {alpha}{by}; "
            f"n must be at least {least} (the field uses 100000)"
        )


def _hits(counts: ArrayLike, n: ArrayLike) -> tuple[Any, Any]:
    hits, draws = np.asarray(counts, dtype=np.float64), np.asarray(n, dtype=np.float64)
    if np.any((hits < 0) | (hits > draws)):
        raise ValueError("counts must be between 0 and n")
    return hits, draws
