"""Probabilities to certified l2 radii, and the figures that summarise a test set's radii."""

# Shapes: N images.
from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]

# No two images with fewer than 10^8 values in [0, 1] are so far apart (l2).
LARGEST_RADIUS = 1e4


def certified_radius(p_a_lower: ArrayLike, sigma: float) -> Floats:
    """Return sigma * Phi^-1(p_a_lower) in pixels of [0, 1] (l2), 0 where p_a_lower <= 1/2.

    Within it the smoothed classifier's class cannot change (Cohen et al. 2019, theorem 1 with
    p_B = 1 - p_A). A bound of 1 gives infinity: no bound from finitely many draws reaches it.
    """
    p = np.asarray(p_a_lower, dtype=np.float64)
    return np.where(p > 0.5, sigma * special.ndtri(np.maximum(p, 0.5)), 0.0)


def two_sided_radius(p_a_lower: ArrayLike, p_b_upper: ArrayLike, sigma: float) -> Floats:
    """Return sigma/2 * (Phi^-1(p_A) - Phi^-1(min(p_B, 1 - p_A))), 0 where that is not positive.

    Cohen et al. 2019, theorem 1; p_b_upper bounds every other class's probability from above.
    """
    p_a = np.asarray(p_a_lower, dtype=np.float64)
    p_b = np.minimum(np.asarray(p_b_upper, dtype=np.float64), 1.0 - p_a)
    with np.errstate(invalid="ignore"):
        radius = sigma / 2.0 * (special.ndtri(p_a) - special.ndtri(p_b))
    return np.where(p_a > p_b, radius, 0.0)


def largest_radius(sigma: float, n: int, alpha: float) -> float:
    """Return the radius when all n draws hit: sigma * Phi^-1(alpha^(1/n)), pixels of [0, 1]."""
    return float(certified_radius(alpha ** (1.0 / n), sigma))


def average_certified_radius(radius: ArrayLike, correct: ArrayLike) -> float:
    """Return ACR: the mean over all N images of radius * [prediction == label], in pixels."""
    contribution_N = np.asarray(radius, dtype=np.float64) * np.asarray(correct, dtype=bool)
    return float(contribution_N.mean()) if contribution_N.size else float("nan")


def acr_standard_error(radius: ArrayLike, correct: ArrayLike) -> float:
    """Return the standard error of ACR over the choice of images, in pixels; nan for one image."""
    contribution_N = np.asarray(radius, dtype=np.float64) * np.asarray(correct, dtype=bool)
    if contribution_N.size < 2:
        return float("nan")
    return float(contribution_N.std(ddof=1) / np.sqrt(contribution_N.size))


def certified_accuracy(radius: ArrayLike, correct: ArrayLike, at: ArrayLike) -> Floats:
    """Return, for each radius in `at`, the fraction of images with correct and radius >= it."""
    radius_N, correct_N = np.asarray(radius, dtype=np.float64), np.asarray(correct, dtype=bool)
    reached = np.sort(radius_N[correct_N])
    below = np.searchsorted(reached, np.asarray(at, dtype=np.float64), side="left")
    return (reached.size - below) / max(radius_N.size, 1)


def round_down(radius: ArrayLike, decimals: int = 3) -> Floats:
    """Return the largest numbers of so many decimals that, as float64, are not above the radii.

    Every radius that is printed or exported goes through here: text never claims more than was
    proved.
    """
    exact, scale = np.asarray(radius, dtype=np.float64), 10.0**decimals
    # rint and a comparison, not floor: 0.953 * 1000 is 952.99..., yet 0.953 is its own rounding.
    nearest = np.rint(exact * scale)
    return np.asarray((nearest - (nearest / scale > exact)) / scale)
