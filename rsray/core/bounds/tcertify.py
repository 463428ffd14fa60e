"""T-CERTIFY: a two-sided radius from bounds of the top class and of all others (Feng et al. 2020).

ADRE paper, Algorithm 2 and Proposition 1.
"""

# Shapes: N images, G grid points of alpha', E (image, count) pairs, K classes.
from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from rsray.core.bounds import clopper_pearson_lower, clopper_pearson_upper
from rsray.core.counts import ClassCounts
from rsray.core.decide import ABSTAIN, Decision
from rsray.core.radius import certified_radius, two_sided_radius

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
GRID = tuple(tenth / 10 for tenth in range(1, 11))  # alpha'/alpha, as in the paper's experiments
NEGLIGIBLE = 1e-9  # share of the level that classes far below the runner-up may come to
STEPS = 40


def certify_tcertify(
    selection: ClassCounts,
    estimation: ClassCounts,
    *,
    sigma: float,
    alpha: float,
    num_classes: int,
    variant: Literal["selection", "paper"] = "selection",
) -> Decision:
    """Return T-CERTIFY's certificates of N images: a lower bound of p_A, an upper bound of p_B.

    p_A is bounded at level alpha' and all other classes together at alpha - alpha'. Because alpha'
    is chosen from the selection draws, which are independent of the estimation draws, the class is
    certified within the radius with probability at least 1 - alpha over an image's draws. As in
    the paper, images whose bound of p_A is at most 1/2 abstain.

    `variant="paper"` takes the largest radius of all alpha' on the same estimation draws. Each
    alpha' has a failure event of its own, so the union bound does not cover the maximum: it may
    fail with a probability above alpha. For comparison with the paper only.
    """
    top_N, n_N = selection.top(), estimation.totals()
    chosen = (selection, estimation, top_N, n_N, sigma, num_classes)
    if variant == "selection":
        part_N = choose_alpha(selection, n_N, alpha)
        return _at(*chosen, alpha=alpha, part_N=part_N)
    best = _at(*chosen, alpha=alpha, part_N=np.full(len(n_N), alpha))
    for share in GRID[:-1]:
        other = _at(*chosen, alpha=alpha, part_N=np.full(len(n_N), share * alpha))
        better = other.radius > best.radius
        changes = {
            name: np.where(better, getattr(other, name), getattr(best, name))
            for name in ("prediction", "radius", "p_a_lower", "p_b_upper")
        }
        best = replace(best, **changes)
    return best


def _at(
    selection: ClassCounts,
    estimation: ClassCounts,
    top_N: Ints,
    n_N: Ints,
    sigma: float,
    num_classes: int,
    *,
    alpha: float,
    part_N: Floats,
) -> Decision:
    """Return the decision with alpha' = part_N; alpha' = alpha is Clopper-Pearson alone."""
    count_a_N = estimation.of(top_N)
    rows, inverse = _distinct(count_a_N, n_N, part_N)
    p_a = clopper_pearson_lower(count_a_N[rows], n_N[rows], part_N[rows])[inverse]
    p_b = 1.0 - p_a
    two_sided = (p_a > 0.5) & (part_N < alpha)
    if two_sided.any():
        rest = estimation.rows(two_sided).without(top_N[two_sided])
        upper = others_upper(
            rest, n_N[two_sided], alpha - part_N[two_sided], num_classes - 1, p_b[two_sided]
        )
        p_b[two_sided] = np.minimum(p_b[two_sided], upper)
    narrower = two_sided & (p_b < 1.0 - p_a)
    radius = np.where(narrower, two_sided_radius(p_a, p_b, sigma), certified_radius(p_a, sigma))
    return Decision(
        prediction=np.where(p_a > 0.5, top_N, ABSTAIN).astype(np.int32),
        radius=np.where(p_a > 0.5, radius, 0.0),
        p_a_lower=p_a,
        p_b_upper=p_b,
        count_a=count_a_N,
        n=n_N,
    )


def choose_alpha(selection: ClassCounts, n_N: ArrayLike, alpha: float) -> Floats:
    """Return alpha' [N] of each image: that of `GRID` with the largest radius to be expected.

    The radius is that of n draws which fall as the selection draws did, with the runner-up's bound
    corrected for the classes that were seen. Any choice is sound, for the selection draws are
    independent of those that are bounded; it is alpha (Clopper-Pearson) on a tie.
    """
    top_N = selection.top()
    rest = selection.without(top_N)
    columns = [
        np.broadcast_to(np.asarray(each, dtype=np.float64), top_N.shape)
        for each in (
            selection.totals(),
            selection.of(top_N),
            rest.of(rest.top()),
            rest.num_seen(),
            n_N,
        )
    ]
    rows, inverse = _distinct(*columns)
    n0, hits, runner_up, seen, n = (each[rows][None] for each in columns)  # of distinct images
    share = np.array([1.0, *GRID[-2::-1]])[:, None]
    p_a = (hits + 0.5) / (n0 + 1.0)  # shrunk: never quite 1
    p_b = np.where(hits < n0, (1.0 - p_a) * runner_up / np.maximum(n0 - hits, 1.0), 1.0 - p_a)
    lower = clopper_pearson_lower(np.round(p_a * n), n, share * alpha)
    level = np.where(share < 1.0, (1.0 - share) * alpha, 0.5) / np.maximum(seen, 1.0)
    upper = clopper_pearson_upper(np.round(p_b * n), n, level)
    upper = np.where(share < 1.0, upper, 1.0)
    radius_GN = np.where(lower > 0.5, two_sided_radius(lower, upper, 1.0), 0.0)
    best = share[radius_GN.argmax(axis=0), 0]  # the first of equals: alpha itself
    return np.asarray((alpha * best)[inverse])


def others_upper(
    rest: ClassCounts,
    n: ArrayLike,
    level: ArrayLike,
    num_others: int,
    at_most: ArrayLike = 1.0,
) -> Floats:
    """Return p_B [N] = inf{p: sum over the other classes of P(Bin(n, p) <= N_j) <= level}.

    `rest` holds the counts of the other classes; of its `num_others` those never seen count as 0.
    With probability at least 1 - level over the draws, every other class's probability is at most
    p_B. Where the solution is not below `at_most`, anything not below `at_most` may be returned.
    Classes far below the runner-up are bounded from above instead of summed (at most 1e-9 of the
    level), and the solution is approached from above: rounding does not cost the guarantee.
    """
    n_N = np.broadcast_to(np.asarray(n, dtype=np.float64), (rest.num_images,))
    level_N = np.broadcast_to(np.asarray(level, dtype=np.float64), n_N.shape)
    cap_N = np.broadcast_to(np.asarray(at_most, dtype=np.float64), n_N.shape)
    most_N = rest.of(rest.top()).astype(np.float64)
    lowest = _upper(most_N, n_N, level_N)
    solution = lowest.copy()
    open_N = np.flatnonzero((lowest < cap_N) & (num_others > 1))
    if not len(open_N):
        return solution
    n_N, level_N = n_N[open_N], level_N[open_N]
    wide = np.log(num_others / (NEGLIGIBLE * level_N))  # Chernoff: P <= exp(-(np - c)^2 / 2np)
    mean_N = n_N * lowest[open_N]
    cut_N = mean_N - np.sqrt(2.0 * mean_N * wide)
    values = _Counts.above(rest.rows(open_N), cut_N, num_others)
    solution[open_N] = values.solve(n_N, level_N * (1.0 - NEGLIGIBLE), lowest[open_N])
    return solution


def _upper(counts: Floats, n: Floats, level: Floats) -> Floats:
    """Return Clopper-Pearson's upper bound, computed once for each distinct triple."""
    rows, inverse = _distinct(counts, n, level)
    return np.asarray(clopper_pearson_upper(counts[rows], n[rows], level[rows])[inverse])


def _distinct(*columns: NDArray[Any]) -> tuple[Ints, Ints]:
    """Return (where each distinct row first stands, which of them each row is)."""
    inverse = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        values, each = np.unique(column, return_inverse=True)
        if len(values) > 1:
            inverse = np.unique(inverse * len(values) + each, return_inverse=True)[1]
    return np.unique(inverse, return_index=True)[1], inverse


class _Counts:
    """The distinct counts of each image's other classes, and how many classes share each."""

    def __init__(self, num_images: int, image_E: Ints, count_E: Floats, times_E: Floats) -> None:
        self.num_images, self.image_E, self.count_E, self.times_E = (
            num_images,
            image_E,
            count_E,
            times_E,
        )

    @classmethod
    def above(cls, rest: ClassCounts, cut_N: Floats, num_others: int) -> _Counts:
        """Return the counts that are not below an image's cut; unseen classes count 0."""
        num_images = rest.num_images
        keep = (rest.counts_E > 0) & (rest.counts_E >= cut_N[rest.image_E])
        seen_N = np.bincount(rest.image_E[rest.counts_E > 0], minlength=num_images)
        unseen = np.flatnonzero((cut_N <= 0) & (seen_N < num_others))
        image = np.concatenate([rest.image_E[keep], unseen])
        count = np.concatenate([rest.counts_E[keep], np.zeros(len(unseen), dtype=np.int64)])
        times = np.concatenate([np.ones(int(keep.sum())), (num_others - seen_N)[unseen]])
        size = int(count.max(initial=0)) + 1
        keys, inverse = np.unique(image * size + count, return_inverse=True)
        total = np.bincount(inverse, weights=times, minlength=len(keys))
        return cls(
            num_images,
            keys // size,
            (keys % size).astype(np.float64),
            np.asarray(total, np.float64),
        )

    def rows(self, chosen_N: Ints) -> _Counts:
        """Return those of some images."""
        place = np.full(self.num_images, -1)
        place[chosen_N] = np.arange(len(chosen_N))
        keep = place[self.image_E] >= 0
        image_E = place[self.image_E[keep]]
        return _Counts(len(chosen_N), image_E, self.count_E[keep], self.times_E[keep])

    def solve(self, n_N: Floats, level_N: Floats, low_N: Floats) -> Floats:
        """Return p [N] with tails(p) <= level, next to the root: Newton's method, safeguarded.

        A binomial tail is log-concave in p, so Newton on its logarithm lands on the sound side of
        the root and closes in from there; whoever leaves the bracket is bisected.
        """
        low, p = low_N.copy(), low_N.copy()
        most = np.zeros(self.num_images)
        np.maximum.at(most, self.image_E, self.count_E)
        classes = np.bincount(self.image_E, weights=self.times_E, minlength=self.num_images)
        high = _upper(most, n_N, level_N / classes)  # every class as large as the largest
        left, part = np.arange(self.num_images), self
        for _ in range(STEPS):
            tails, slope = part.tails(p[left], n_N[left])
            sound = tails <= level_N[left]
            high[left] = np.where(sound, p[left], high[left])
            low[left] = np.where(sound, low[left], p[left])
            with np.errstate(divide="ignore", invalid="ignore"):
                step = tails * np.log(tails / level_N[left]) / slope
            ahead = p[left] + step
            inside = (ahead > low[left]) & (ahead < high[left])
            ahead = np.where(inside, ahead, 0.5 * (low[left] + high[left]))
            settled = sound & (np.abs(step) <= 1e-11 * p[left])
            settled |= (high - low)[left] <= 4e-16 * high[left]
            p[left] = ahead
            if settled.any():
                kept = np.flatnonzero(~settled)
                left, part = left[kept], part.rows(kept)
            if not len(left):
                break
        return high

    def tails(self, p_N: Floats, n_N: Floats) -> tuple[Floats, Floats]:
        """Return sum of P(Bin(n, p) <= count) over the classes, and minus its derivative in p."""
        p, n, k = p_N[self.image_E], n_N[self.image_E], self.count_E
        tail_E = np.where(k < n, special.betainc(np.maximum(n - k, 1.0), k + 1.0, 1.0 - p), 1.0)
        with np.errstate(divide="ignore"):
            log_slope = (
                special.xlogy(k, p)
                + special.xlog1py(n - k - 1.0, -p)
                - special.betaln(np.maximum(n - k, 1.0), k + 1.0)
            )
        slope_E = np.where(k < n, np.exp(log_slope), 0.0)
        return self._sum(tail_E), self._sum(slope_E)

    def _sum(self, value_E: Floats) -> Floats:
        weights = self.times_E * value_E
        summed = np.bincount(self.image_E, weights=weights, minlength=self.num_images)
        return np.asarray(summed, dtype=np.float64)
