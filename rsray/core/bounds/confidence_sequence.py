"""Confidence sequences: bounds of a probability that stay valid however one decides to stop.

A beta mixture of likelihood ratios is a martingale that starts at 1 (Robbins 1970), so by Ville's
inequality it ever reaches 1/alpha at the true p with probability at most alpha.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]
HALVINGS = 60  # of [0, hits/draws]: down to the last bit of a float64


def log_evidence(hits: ArrayLike, draws: ArrayLike, p: ArrayLike) -> Floats:
    """Return the logarithm of the evidence against p after `hits` in `draws`, in nats.

    With probability at least 1 - alpha over the draws it stays below ln(1/alpha) at the true p at
    all times at once: under any stopping rule, whatever the rule has seen (../README.md, 4).
    """
    hits_, draws_ = np.asarray(hits, dtype=np.float64), np.asarray(draws, dtype=np.float64)
    misses = draws_ - hits_
    mixture = special.betaln(hits_ + 0.5, misses + 0.5) - special.betaln(0.5, 0.5)
    p_ = np.asarray(p, dtype=np.float64)
    likelihood = special.xlogy(hits_, p_) + special.xlog1py(misses, -p_)
    return np.asarray(mixture - likelihood, dtype=np.float64)


def sequence_lower(hits: ArrayLike, draws: ArrayLike, alpha: float) -> Floats:
    """Return the largest rejected p below hits/draws; 0 where none is.

    With probability at least 1 - alpha over the draws it is at most the true p at all times at
    once, so it may be read whenever one likes. A little below Clopper-Pearson's for fixed n.
    """
    hits_, draws_ = np.broadcast_arrays(
        np.asarray(hits, dtype=np.float64), np.asarray(draws, dtype=np.float64)
    )
    needed = -math.log(alpha)
    low = np.zeros(hits_.shape)
    high = hits_ / np.maximum(draws_, 1.0)
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        rejected = (middle > 0) & (log_evidence(hits_, draws_, middle) >= needed)
        low, high = np.where(rejected, middle, low), np.where(rejected, high, middle)
    return low


def answers(
    hits: ArrayLike, draws: ArrayLike, thresholds: ArrayLike, alpha: float
) -> NDArray[np.int64]:
    """Return for each image and threshold: 1 when p is above it, -1 when below, 0 while open.

    Shape [..., len(thresholds)]. "Above" is certain with probability at least 1 - alpha over the
    draws, at all times at once. "Below" is as certain, and is used to stop early, never to certify.
    """
    hits_ = np.asarray(hits, dtype=np.float64)[..., None]
    draws_ = np.asarray(draws, dtype=np.float64)[..., None]
    at = np.asarray(thresholds, dtype=np.float64)
    side = np.sign(hits_ - at * draws_).astype(np.int64)
    return np.where(log_evidence(hits_, draws_, at) >= -math.log(alpha), side, 0)
