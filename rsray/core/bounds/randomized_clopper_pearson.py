"""Randomized Clopper-Pearson: the exact bound without the slack of counts (Stevens 1950).

Counts are whole numbers, so Clopper-Pearson's bound fails less often than alpha. A uniform number U
of the image splits the probability of its count, and the bound then fails exactly with probability
alpha (Voracek, NeurIPS 2024). Radii are a little larger than those of any published certificate.
"""

# Shapes: N images.
from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from rsray.core.bounds._base import Floats
from rsray.core.bounds.clopper_pearson import ClopperPearson, clopper_pearson_lower
from rsray.core.evidence import Evidence

# U is at least this, and this many times alpha: no bound is then 1, and no radius without end.
LEAST_U, LEAST_U_OVER_ALPHA = 0.01, 2.0
# Of the step between the bounds of two counts; what is then left of it is not claimed.
NUM_HALVINGS = 30


def uniform_numbers(seed: int, indices: Iterable[int]) -> Floats:
    """Return the number U in (0, 1] of each image [N]: a hash of the run's seed and the index.

    It depends on nothing else, so a run that is repeated or recertified has the same.
    """
    name = b"rsray bound"
    digests = (
        hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=8, person=name).digest()
        for index in indices
    )
    whole_N = np.array([int.from_bytes(digest, "little") for digest in digests], dtype=np.float64)
    return (whole_N + 1.0) / 2.0**64


def randomized_clopper_pearson_lower(
    counts: ArrayLike, n: ArrayLike, alpha: float, uniform: ArrayLike
) -> Floats:
    """Return the p with P(more hits) + U * P(as many hits) = alpha, from `counts` hits in n draws.

    With probability at least 1 - alpha over the draws and U it is at most p; exactly so but for the
    least U. It lies between Clopper-Pearson's bounds of as many hits (U = 1) and of one more.
    """
    least = min(1.0, max(LEAST_U, LEAST_U_OVER_ALPHA * alpha))
    hits, draws, u = np.broadcast_arrays(
        np.asarray(counts, dtype=np.float64), np.asarray(n, dtype=np.float64),
        np.maximum(np.asarray(uniform, dtype=np.float64), least),
    )  # fmt: skip
    lower = clopper_pearson_lower(hits, draws, alpha)
    # Of all hits in closed form; without a hit nothing is rejected, since U is above alpha.
    all_hit = (hits == draws) & (draws > 0)
    lower = np.where(all_hit, (alpha / u) ** (1.0 / np.maximum(draws, 1.0)), lower)
    between = (hits > 0) & (hits < draws) & (u < 1.0)
    hits, draws, u = hits[between], draws[between], u[between]
    low, high = lower[between], clopper_pearson_lower(hits + 1.0, draws, alpha)
    for _ in range(NUM_HALVINGS):
        p = 0.5 * (low + high)
        more = special.betainc(hits + 1.0, draws - hits, p)
        as_many = special.betainc(hits, draws - hits + 1.0, p) - more
        is_rejected = more + u * as_many <= alpha
        low, high = np.where(is_rejected, p, low), np.where(is_rejected, high, p)
    lower[between] = low
    return lower


class RandomizedClopperPearson(ClopperPearson):
    """Clopper-Pearson with the image's own U; draws are planned as if U were 1."""

    name = "randomized-clopper-pearson"
    is_randomized = True

    def lower_of(self, evidence: Evidence, alpha: float) -> Floats:
        """Return the bound of N images; the guarantee is over the draws and U."""
        return randomized_clopper_pearson_lower(evidence.hits, evidence.n, alpha, evidence.uniform)


RANDOMIZED_CLOPPER_PEARSON = RandomizedClopperPearson()
