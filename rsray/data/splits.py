"""Which images: validation splits, subsets, and the test images that a certification selects."""

# Shapes: N images, K classes.
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsray.errors import UserError

TEST_FRACTION = 0.2  # where the data has no splits of its own
SPLIT_SEED = 0  # fixed: training and certification must never see the same image


def seeded_part(labels: NDArray[np.integer[Any]], split: str) -> NDArray[np.int64]:
    """Return the indices of the "train" or the "test" part of data without splits of its own."""
    train, test = train_validation(labels, TEST_FRACTION, SPLIT_SEED)
    return test if split == "test" else train


def train_validation(
    labels: NDArray[np.integer[Any]], validation: float | int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (train, validation) indices: disjoint, sorted, together all of 0..N-1.

    `validation` is a fraction of the images (float in [0, 1)) or their number (int in 0..N-1).
    Stratified: every class gives its share, rounded up or down so that the total is exact. The
    result depends on the labels, `validation` and `seed` only. Raises UserError for a value
    outside its range.
    """
    labels = np.asarray(labels)
    count = _validation_count(len(labels), validation)
    classes, class_of = np.unique(labels, return_inverse=True)
    sizes = np.bincount(class_of, minlength=len(classes))
    quota = _largest_remainders(sizes, count)
    order = np.lexsort((np.random.default_rng(seed).random(len(labels)), class_of))
    first = np.cumsum(sizes) - sizes  # where each class starts in the order
    rank = np.arange(len(labels)) - np.repeat(first, sizes)  # of an image within its class
    held_out = rank < np.repeat(quota, sizes)
    return np.sort(order[~held_out]), np.sort(order[held_out])


def subset(n_total: int, limit: int | None, seed: int) -> NDArray[np.int64]:
    """Return the first `limit` entries of a seeded permutation of 0..n_total-1, in its order.

    The whole permutation when `limit` is None or at least `n_total`. A larger limit with the same
    seed begins with the smaller one. Raises UserError when `limit` < 1.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit {limit}: must be at least 1")
    return np.random.default_rng(seed).permutation(n_total)[:limit]


def selected(n_total: int, start: int, skip: int, limit: int | None) -> NDArray[np.int64]:
    """Return the indices start, start + skip, start + 2 skip, ... below n_total, at most `limit`.

    Raises UserError when `start` is outside 0..n_total-1, or `skip` or `limit` is below 1.
    """
    if not 0 <= start < n_total:
        raise UserError(f"start {start}: must be 0..{n_total - 1} (there are {n_total} images)")
    if skip < 1:
        raise UserError(f"skip {skip}: must be at least 1")
    if limit is not None and limit < 1:
        raise UserError(f"limit {limit}: must be at least 1")
    return np.arange(start, n_total, skip, dtype=np.int64)[:limit]


def _validation_count(n_total: int, validation: float | int) -> int:
    """Return the number of validation images, checked."""
    if isinstance(validation, float):
        if not 0.0 <= validation < 1.0:
            raise UserError(f"validation {validation}: a fraction must be in [0, 1)")
        return min(round(validation * n_total), n_total - 1)
    if not 0 <= validation < n_total:
        raise UserError(
            f"validation {validation}: must be 0..{n_total - 1} (there are {n_total} images)"
        )
    return int(validation)


def _largest_remainders(sizes: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Share `count` among classes [K] in proportion to their sizes; the shares add up to it."""
    total = int(sizes.sum())
    quota, remainder = np.divmod(sizes * count, max(total, 1))
    left_over = count - int(quota.sum())
    quota[np.argsort(-remainder, kind="stable")[:left_over]] += 1
    return quota
