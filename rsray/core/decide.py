"""Counts to decisions: pure arithmetic, repeatable without the model."""

# Shapes: N images, K classes.
from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special

from rsray.core.bounds import clopper_pearson_lower
from rsray.core.evidence import ABSTAIN, hits_and_runner_up
from rsray.core.radius import certified_radius


def predict_hard(
    counts_NK: NDArray[np.integer], *, alpha: float, total_variation: float = 0.0
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return Cohen et al.'s PREDICT for N images: predictions [N] (-1 = abstain) and p-values [N].

    The p-value is that of the exact two-sided binomial test of the top count against the two top
    counts together at 1/2. With probability at least 1 - alpha over the draws, a prediction that
    does not abstain is the class that the smoothed classifier returns (ICML 2019, section 3.2.1).
    `total_variation` is how far the noise of one draw may be from the exact Gaussian: so many times
    the draws are added to the p-value.
    """
    top_N = np.asarray(counts_NK).argmax(axis=1)
    n_a, n_b = hits_and_runner_up(counts_NK, top_N)
    exact = 2.0 * special.bdtr(n_b, n_a + n_b, 0.5)
    p_value = np.minimum(1.0, exact + np.sum(counts_NK, axis=1) * total_variation)
    prediction = np.where(p_value <= alpha, top_N, ABSTAIN)
    return prediction.astype(np.int32), p_value


def projected_radius(
    p_hat: NDArray[np.float64], *, sigma: float, n: int, alpha: float
) -> NDArray[np.float64]:
    """Return the radius that n draws WOULD certify if a fraction p_hat of them hit, in pixels.

    An estimate to rank models with few draws, not a certificate (README.md, section 5).
    """
    hits = np.round(np.asarray(p_hat, dtype=np.float64) * n)
    return certified_radius(clopper_pearson_lower(hits, n, alpha), sigma)
