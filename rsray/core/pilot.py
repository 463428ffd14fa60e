"""How many estimation draws an image is worth, judged by its selection draws."""

# Shapes: Q quantiles of what p_A may be.
from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

from rsray.core.bounds import BOUNDS
from rsray.core.radius import certified_radius

Floats = NDArray[np.float64]
NUM_QUANTILES = 64


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
    least = min(most, -(-_smallest_useful_n(bound, alpha) // block_size))
    p_Q = plausible(hits, n0)

    def mean_radius(draws: int) -> float:
        # The draws hit as often as expected. Of soft probabilities, 0 and 1 vary most.
        hits_Q = p_Q * draws
        lower_Q = BOUNDS[bound].lower(hits_Q, hits_Q, draws, alpha)
        return float(certified_radius(lower_Q, 1.0).mean())

    enough = mean_radius(n) - tolerance
    # The expected radius grows with the draws
    while least < most:
        blocks = (least + most) // 2
        if mean_radius(min(n, blocks * block_size)) >= enough:
            most = blocks
        else:
            least = blocks + 1
    return most


@lru_cache
def _smallest_useful_n(bound: str, alpha: float) -> int:
    return BOUNDS[bound].smallest_useful_n(alpha)


def plausible(hits: float, n0: int) -> Floats:
    """Return what p_A may be [Q] given the hits in n0 draws: quantiles, with Jeffreys' prior."""
    middle = (np.arange(NUM_QUANTILES) + 0.5) / NUM_QUANTILES
    return np.asarray(special.betaincinv(hits + 0.5, n0 - hits + 0.5, middle))
