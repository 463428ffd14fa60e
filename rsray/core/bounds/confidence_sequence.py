"""Confidence sequences: bounds of a probability that stay valid however one decides to stop.

To reject "the probability is at most p", likelihood ratios are mixed over the values ABOVE p alone,
by a beta prior cut there. If the probability is at most p, the mixture is a supermartingale that
starts at 1, so by Ville's inequality it ever reaches 1/alpha with probability at most alpha
(Robbins 1970; ../README.md, 4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from rsray.core.bounds._base import Bound, Floats
from rsray.core.evidence import ABSTAIN, Decision, Evidence

# Of [0, hits/draws]: down to the last bit of a float64.
NUM_HALVINGS = 60


@dataclass(frozen=True)
class ConfidenceSequence(Bound):
    """Answers whether an image's radius is at least each of those asked; draws stop once it has.

    A certificate holds with probability at least 1 - alpha over an image's draws under any
    stopping rule. An image stopped early has a smaller radius than n draws would have given.
    """

    # Ascending.
    at_radius: tuple[float, ...]
    name = "confidence-sequence"

    def lower(self, hits: ArrayLike, square_sums: ArrayLike, n: ArrayLike, alpha: float) -> Floats:
        """Return the sequence's lower bound."""
        return sequence_lower(hits, n, alpha)

    def answers(
        self,
        hits: ArrayLike,
        draws: ArrayLike,
        *,
        sigma: float,
        alpha: float,
        total_variation: float = 0.0,
    ) -> NDArray[np.int64]:
        """Return the answer to each radius [..., R]: 1 yes, -1 no, 0 while it is open."""
        thresholds_R = special.ndtr(np.asarray(self.at_radius, dtype=np.float64) / sigma)
        thresholds_R += total_variation
        return answers(hits, draws, thresholds_R, alpha)

    def decide(
        self, evidence: Evidence, *, sigma: float, alpha: float, total_variation: float = 0.0
    ) -> Decision:
        """Return the certificates of N images, whose radius is at least the largest answered yes.

        A radius counts if all smaller ones do: then whatever is false needs the smallest that is
        false, and no alpha is split between them. The answer and the bound say the same; taking
        both keeps rounding from telling them apart.
        """
        levels = {"sigma": sigma, "alpha": alpha, "total_variation": total_variation}
        decision = super().decide(evidence, **levels)
        above_NR = self.answers(evidence.hits, evidence.n, **levels) > 0
        above_NR = np.logical_and.accumulate(above_NR, axis=1)
        reached_N = np.where(above_NR, self.at_radius, 0.0).max(axis=1, initial=0.0)
        certified = decision.prediction != ABSTAIN
        return replace(
            decision, radius=np.where(certified, np.maximum(decision.radius, reached_N), 0.0)
        )


def log_evidence(hits: ArrayLike, draws: ArrayLike, p: ArrayLike) -> Floats:
    """Return the logarithm of the evidence that the probability is above p, in nats.

    Where it is at most p, the evidence of `hits` in `draws` ever reaches ln(1/alpha) with
    probability at most alpha: under any stopping rule, whatever the rule has seen.
    """
    hits_, draws_ = np.asarray(hits, dtype=np.float64), np.asarray(draws, dtype=np.float64)
    misses, p_ = draws_ - hits_, np.asarray(p, dtype=np.float64)
    mixture = special.betaln(hits_ + 0.5, misses + 0.5) - special.betaln(0.5, 0.5)
    likelihood = special.xlogy(hits_, p_) + special.xlog1py(misses, -p_)
    # The shares of the posterior and of the prior above p: what is cut off at p.
    posterior, prior = (
        special.betaincc(hits_ + 0.5, misses + 0.5, p_),
        special.betaincc(0.5, 0.5, p_),
    )
    with np.errstate(divide="ignore"):
        return np.asarray(mixture - likelihood + np.log(posterior) - np.log(prior))


def sequence_lower(hits: ArrayLike, draws: ArrayLike, alpha: float) -> Floats:
    """Return the largest p below hits/draws of which "at most p" is rejected; 0 where none is.

    Every smaller p is rejected too, for the evidence falls in p. With probability at least
    1 - alpha over the draws it is at most the true p at all times at once, so it may be read
    whenever one likes. A little below Clopper-Pearson's for fixed n.
    """
    hits_, draws_ = np.broadcast_arrays(
        np.asarray(hits, dtype=np.float64), np.asarray(draws, dtype=np.float64)
    )
    needed = -math.log(alpha)
    low = np.zeros(hits_.shape)
    high = hits_ / np.maximum(draws_, 1.0)
    for _ in range(NUM_HALVINGS):
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
    at, needed = np.asarray(thresholds, dtype=np.float64), -math.log(alpha)
    is_above = (hits_ > at * draws_) & (log_evidence(hits_, draws_, at) >= needed)
    is_below = (hits_ < at * draws_) & (log_evidence(draws_ - hits_, draws_, 1.0 - at) >= needed)
    return is_above.astype(np.int64) - is_below
