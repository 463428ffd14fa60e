"""Were two sets of counts drawn from one distribution: exact tests that need no large counts."""

# Shapes: R pairs of blocks, K classes.
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def counts_p_values(first_RK: Ints, second_RK: Ints) -> Floats:
    """Return for each pair of blocks [R] how likely counts so unlike are from one distribution.

    Both blocks have the same number of draws. Given the sum of the two, the count of a class in
    the first is hypergeometric: the two-sided exact p-values of the two classes that are the most
    frequent in both together, with Bonferroni's correction where a third was seen.
    """
    pooled_RK, draws_R1 = first_RK + second_RK, first_RK.sum(axis=1, keepdims=True)
    top_R2 = np.argsort(-pooled_RK, axis=1, kind="stable")[:, :2]
    hits_R2 = np.take_along_axis(first_RK, top_R2, axis=1)
    total_R2 = np.take_along_axis(pooled_RK, top_R2, axis=1)
    chance = stats.hypergeom(2 * draws_R1, total_R2, draws_R1)
    p_R2 = 2.0 * np.minimum(chance.cdf(hits_R2), chance.sf(hits_R2 - 1))
    is_rest = total_R2.sum(axis=1) < 2 * draws_R1[:, 0]
    return np.asarray(np.minimum(1.0, np.where(is_rest, 2.0, 1.0) * p_R2.min(axis=1)))


def sums_p_values(first_RK: Floats, second_RK: Floats, draws_R: Ints) -> Floats:
    """Return the same for sums of values in [0, 1], by Hoeffding's inequality: bounds from above.

    Of all classes that whose sums differ most counts, with Bonferroni's correction.
    """
    gap_R = np.abs(first_RK - second_RK).max(axis=1) / draws_R
    num_classes = first_RK.shape[1]
    return np.asarray(np.minimum(1.0, num_classes * 2.0 * np.exp(-draws_R * gap_R**2)))


def combined_p_value(p_values: Sequence[float] | Floats) -> float:
    """Return one p-value for many independent ones, each exact or too large.

    The smaller of Fisher's, which sees that many are a little small, and Bonferroni's, which sees
    that one is very small; doubled, for there are two.
    """
    p_R = np.asarray(p_values, dtype=np.float64)
    with np.errstate(divide="ignore"):
        fisher = float(stats.chi2.sf(-2.0 * np.log(p_R).sum(), 2 * len(p_R)))
    return min(1.0, 2.0 * min(fisher, len(p_R) * float(p_R.min())))
