"""Which images: validation splits, subsets, and the test images that a certification selects."""

# Shapes: N images, K classes.
import logging
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsray.errors import UserError

log = logging.getLogger(__name__)
# No set has so many.
MOST_IMAGES = 2**40
# Where the data has no splits of its own
TEST_FRACTION = 0.2


def normal(name: str) -> str:
    """Return a name in one Unicode form: macOS writes accents otherwise than the rest (NFD)."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def numbered(names: Iterable[str]) -> list[str]:
    """Return the names, with a number behind each that was there before."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        found.append(f"{name} #{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return found


def name_marks(names: Sequence[str]) -> NDArray[np.uint64]:
    """Return a number of 64 bits for each name [N], evenly spread and the same on every machine."""
    digests = b"".join(
        blake2b(normal(name).encode(errors="surrogatepass"), digest_size=8).digest()
        for name in names
    )
    return np.frombuffer(digests, ">u8").astype(np.uint64)


def named_part(
    names: Sequence[str], labels: NDArray[np.integer[Any]], split: str
) -> NDArray[np.int64]:
    """Return the indices of the "train" or the "test" part of data without splits of its own.

    An image belongs to the test part when the hash of its name is among the lowest fifth of all
    hashes: whatever is added or removed, no other image moves. Only a class of two images or more
    that would have no test image gives the one with its lowest hash; adding images can bring that
    one back to the training part, but brings no trained one to the test part.
    """
    marks = name_marks(names)
    is_test = marks < np.uint64(TEST_FRACTION * 2**64)
    order = np.lexsort((marks, labels))
    _, first, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    tested = np.add.reduceat(is_test[order].astype(np.int64), first) if len(first) else first
    is_test[order[first[(tested == 0) & (sizes >= 2)]]] = True
    for at in first[tested == sizes] if split == "train" else ():
        log.warning("class %d has no training image: all are in the test part", labels[order[at]])
    return np.flatnonzero(is_test if split == "test" else ~is_test)


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
    # Where each class starts in the order
    first = np.cumsum(sizes) - sizes
    # Of an image within its class
    rank = np.arange(len(labels)) - np.repeat(first, sizes)
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


def selected(
    n_total: int, start: int, skip: int, limit: int | None, *, is_spread: bool = False
) -> NDArray[np.int64]:
    """Return the indices start, start + skip, start + 2 skip, ... below n_total, at most `limit`.

    With `is_spread` the limit takes its images evenly from all of these, not the first: class
    folders are sorted by class. Raises UserError when `start` is outside 0..n_total-1, or `skip` or
    `limit` is below 1.
    """
    if not 0 <= start < n_total:
        raise UserError(f"start {start}: must be 0..{n_total - 1} (there are {n_total} images)")
    if skip < 1:
        raise UserError(f"skip {skip}: must be at least 1")
    if limit is not None and limit < 1:
        raise UserError(f"limit {limit}: must be at least 1")
    indices = np.arange(start, n_total, skip, dtype=np.int64)
    if is_spread and limit is not None and limit < len(indices):
        return indices[np.arange(limit) * len(indices) // limit]
    return indices[:limit]


def may_be_selected(
    index_N: NDArray[np.int64], start: int, skip: int, limit: int | None, *, is_spread: bool
) -> bool:
    """Tell whether `selected` returns these indices, ascending, for a set of some size."""
    place_N, rest_N = np.divmod(index_N - start, skip)
    count = len(index_N)
    is_too_much = index_N[-1] >= MOST_IMAGES or (limit is not None and count > limit)
    if is_too_much or rest_N.any() or place_N[0] != 0:
        return False
    if not is_spread or count != limit:
        return np.array_equal(place_N, np.arange(count))
    # The k-th of `count` that are spread over M has the place floor(k M / count).
    place, k = place_N[1:], np.arange(1, count)
    least, most = -(-place * count // k), -(-(place + 1) * count // k) - 1
    return bool(least.max(initial=count) <= most.min(initial=MOST_IMAGES))


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
