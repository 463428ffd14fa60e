"""Counts to certificates: pure arithmetic, repeatable without the model."""

# Shapes: N images, R radii asked about.
from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from rsray.core.bounds import bernstein_lower, clopper_pearson_lower, hoeffding_lower
from rsray.core.bounds.confidence_sequence import answers, sequence_lower
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
    return _one_sided(top_N, clopper_pearson_lower(count_a_N, n_N, alpha), count_a_N, n_N, sigma)


@dataclass(frozen=True)
class Moments:
    """What soft smoothing keeps of N images' draws, by class; `hits` are the hard counts."""

    selection_sums: ClassCounts  # of soft probabilities
    sums: ClassCounts
    square_sums: ClassCounts
    hits: ClassCounts
    n: NDArray[np.int64]


def certify_soft(moments: Moments, *, sigma: float, alpha: float, bound: str) -> Decision:
    """Return the certificates of the SOFT smoothed classifier (MACER paper, appendix A.2).

    That classifier, argmax_c E softmax_c(x + noise), is another one than Cohen et al.'s, which
    counts classes. The class is the one with the largest mean soft probability in the selection
    draws; `bound` ("hoeffding", equation 23, or "bernstein", equation 26) bounds its mean from
    below. With probability at least 1 - alpha over an image's draws, the soft smoothed classifier
    predicts that class everywhere within sigma * Phi^-1(bound). `count_a` stays the hard count.
    """
    top_N = moments.selection_sums.top()
    sums_N = moments.sums.of(top_N)
    if bound == "hoeffding":
        lower = hoeffding_lower(sums_N, moments.n, alpha)
    elif bound == "bernstein":
        lower = bernstein_lower(sums_N, moments.square_sums.of(top_N), moments.n, alpha)
    else:
        raise ValueError(f"{bound!r} is no soft bound; choose hoeffding or bernstein")
    return _one_sided(top_N, lower, moments.hits.of(top_N), moments.n, sigma)


def certify_at_radii(
    selection: ClassCounts,
    estimation: ClassCounts,
    *,
    sigma: float,
    alpha: float,
    at_radius: tuple[float, ...],
) -> Decision:
    """Return the certificates of N images whose draws stopped once the radii were answered.

    The bound is a confidence sequence's, valid under any stopping rule: with probability at least
    1 - alpha over an image's draws, the smoothed classifier predicts the class everywhere within
    the radius. An image stopped early has a smaller radius than n draws would have given.
    """
    top_N, n_N = selection.top(), estimation.totals()
    hits_N = estimation.of(top_N)
    decision = _one_sided(top_N, sequence_lower(hits_N, n_N, alpha), hits_N, n_N, sigma)
    radii_R = np.asarray(at_radius, dtype=np.float64)
    above_NR = answers(hits_N, n_N, special.ndtr(radii_R / sigma), alpha) > 0
    reached_N = np.where(above_NR, radii_R, 0.0).max(axis=1, initial=0.0)
    # The answer and the bound say the same; this keeps rounding from telling them apart.
    certified = decision.prediction != ABSTAIN
    radius = np.where(certified, np.maximum(decision.radius, reached_N), 0.0)
    return replace(decision, radius=radius)


def _one_sided(
    top_N: NDArray[np.int64],
    lower_N: NDArray[np.float64],
    count_a_N: NDArray[np.int64],
    n_N: NDArray[np.int64],
    sigma: float,
) -> Decision:
    return Decision(
        prediction=np.where(lower_N > 0.5, top_N, ABSTAIN).astype(np.int32),
        radius=certified_radius(lower_N, sigma),
        p_a_lower=lower_N,
        p_b_upper=1.0 - lower_N,
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

    An estimate to rank models with few draws, not a certificate (README.md, section 5).
    """
    hits = np.round(np.asarray(p_hat, dtype=np.float64) * n)
    return certified_radius(clopper_pearson_lower(hits, n, alpha), sigma)
