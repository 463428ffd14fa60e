"""Counts to certificates: pure arithmetic, repeatable without the model."""

# Shapes: N images, K classes.
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from rsray.core.bounds import clopper_pearson_lower
from rsray.core.counts import ClassCounts
from rsray.core.radius import certified_radius

ABSTAIN = -1


@dataclass(frozen=True)
class Decision:
    """What the draws of N images say: prediction (-1 = abstain), radius in pixels, bounds."""

    prediction: NDArray[np.int32]
    radius: NDArray[np.float64]
    p_a_lower: NDArray[np.float64]
    p_b_upper: NDArray[np.float64]
    count_a: NDArray[np.int64]
    n: NDArray[np.int64]


def certify_hard(
    selection: ClassCounts, estimation: ClassCounts, *, sigma: float, alpha: float
) -> Decision:
    """Return Cohen et al.'s CERTIFY for N images (ICML 2019, section 3.2.2).

    The class is the most frequent of the selection draws; its estimation hits give the
    Clopper-Pearson lower bound of its probability. With probability at least 1 - alpha over an
    image's draws, the smoothed classifier predicts that class everywhere within the radius.
    Images whose bound is at most 1/2, or without estimation draws, abstain with radius 0.
    """
    top_N = selection.top()
    n_N = estimation.totals()
    count_a_N = estimation.of(top_N)
    p_a_lower = clopper_pearson_lower(count_a_N, n_N, alpha)
    return Decision(
        prediction=np.where(p_a_lower > 0.5, top_N, ABSTAIN).astype(np.int32),
        radius=certified_radius(p_a_lower, sigma),
        p_a_lower=p_a_lower,
        p_b_upper=1.0 - p_a_lower,
        count_a=count_a_N,
        n=n_N,
    )


def predict_hard(
    counts: ClassCounts, *, alpha: float
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return Cohen et al.'s PREDICT for N images: predictions [N] (-1 = abstain) and p-values [N].

    The p-value is that of the exact two-sided binomial test of the top count against the two top
    counts together at 1/2. With probability at least 1 - alpha over the draws, a prediction that
    does not abstain is the class that the smoothed classifier returns (ICML 2019, section 3.2.1).
    """
    top_N = counts.top()
    n_a = counts.of(top_N)
    rest = counts.without(top_N)
    n_b = rest.of(rest.top())
    p_value = np.minimum(1.0, 2.0 * special.bdtr(n_b, n_a + n_b, 0.5))
    prediction = np.where(p_value <= alpha, top_N, ABSTAIN)
    return prediction.astype(np.int32), p_value


def projected_radius(
    p_hat: NDArray[np.float64], *, sigma: float, n: int, alpha: float
) -> NDArray[np.float64]:
    """Return the radius that n draws WOULD certify if a fraction p_hat of them hit, in pixels.

    An estimate to rank models with few draws, not a certificate: DESIGN.md, decision 7.
    """
    hits = np.round(np.asarray(p_hat, dtype=np.float64) * n)
    return certified_radius(clopper_pearson_lower(hits, n, alpha), sigma)
