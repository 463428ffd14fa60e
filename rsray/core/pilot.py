"""How many estimation draws an image is worth, judged by its selection draws."""

# Shapes: Q quantiles of what p_A may be.
from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from rsray.core.bounds import (
    bernstein_lower,
    clopper_pearson_lower,
    hoeffding_lower,
    smallest_useful_n,
)
from rsray.core.radius import certified_radius

Floats = NDArray[np.float64]
QUANTILES = 64


@lru_cache(maxsize=65_536)
def blocks_worth(
    hits: float,
    n0: int,
    *,
    n: int,
    block_size: int,
    alpha: float,
    bound: str = "clopper-pearson",
    tolerance: float = 0.01,
) -> int:
    """Return the least number of blocks whose expected loss of radius is at most the tolerance.

    The loss is against n draws, in units of sigma; the expectation is over p_A given `hits` (or
    the sum of soft probabilities) in n0 pilot draws, with Jeffreys' prior. Never fewer blocks than
    can certify anything. A pure function of the pilot: the bound of the fresh estimation draws
    that follow holds with probability at least 1 - alpha whatever this returns. Bounds of two
    sides (tcertify) are judged by Clopper-Pearson's.
    """
    most = -(-n // block_size)
    least = min(most, -(-smallest_useful_n(alpha, bound) // block_size))
    p_Q = plausible(hits, n0)

    def mean_radius(draws: int) -> float:
        return float(certified_radius(expected_lower(p_Q, draws, alpha, bound), 1.0).mean())

    enough = mean_radius(n) - tolerance
    while least < most:  # the expected radius grows with the draws
        blocks = (least + most) // 2
        if mean_radius(min(n, blocks * block_size)) >= enough:
            most = blocks
        else:
            least = blocks + 1
    return most


def plausible(hits: float, n0: int) -> Floats:
    """Return what p_A may be [Q] given the hits in n0 draws: quantiles, with Jeffreys' prior."""
    middle = (np.arange(QUANTILES) + 0.5) / QUANTILES
    return np.asarray(special.betaincinv(hits + 0.5, n0 - hits + 0.5, middle))


def expected_lower(p_Q: Floats, draws: int, alpha: float, bound: str) -> Floats:
    """Return the lower bound [Q] of p when the draws hit as often as expected."""
    hits = p_Q * draws
    if bound == "hoeffding":
        return hoeffding_lower(hits, draws, alpha)
    if bound == "bernstein":  # of variables in [0, 1], hits and misses vary most
        return bernstein_lower(hits, hits, draws, alpha)
    return clopper_pearson_lower(hits, draws, alpha)
