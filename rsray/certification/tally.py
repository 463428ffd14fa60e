"""Rows of counts, as arrays and summed."""

# Shapes: R rows, N images, E (image, class) pairs.
from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rsray.core.counts import ClassCounts

Ints = NDArray[np.int64]


def column(table: pa.Table, name: str) -> Ints:
    """Return a column of integers [R]."""
    return table[name].to_numpy().astype(np.int64)


def is_selection(table: pa.Table) -> NDArray[np.bool_]:
    """Tell of each row [R] whether its draws are of the selection."""
    return np.asarray(table["stage"].to_numpy(zero_copy_only=False) == "selection", dtype=bool)


def block_numbers(table: pa.Table) -> Ints:
    """Return which of its image's blocks each row [R] holds: 0 the selection, then estimation."""
    return np.where(is_selection(table), 0, column(table, "block") + 1)


def class_counts(
    table: pa.Table,
    image_R: Ints,
    num_images: int,
    *,
    values: str = "counts",
    of_class: Ints | None = None,
) -> ClassCounts:
    """Return the counts in rows of N images (or `sums`, `square_sums`), summed by (image, class).

    With `of_class` [N] of the one class that is named for each image alone.
    """
    lists: Any = [table[name].combine_chunks() for name in ("classes", values)]
    lengths = np.diff(lists[0].offsets.to_numpy()) if len(table) else []
    image_E = np.repeat(image_R, lengths).astype(np.int64)
    class_E, value_E = (each.flatten().to_numpy(zero_copy_only=False) for each in lists)
    kept = value_E > 0 if of_class is None else class_E == of_class[image_E]
    kind = np.int64 if values == "counts" else np.float64
    return ClassCounts.gather(
        num_images, image_E[kept], class_E[kept].astype(np.int64), value_E[kept].astype(kind)
    )


def selection_counts(table: pa.Table, image_R: Ints, num_images: int, values: str) -> ClassCounts:
    """Return the counts (or `sums`) of those rows [R] that are of the selection."""
    chosen_R = is_selection(table)
    rows = table.filter(pa.array(chosen_R))
    return class_counts(rows, image_R[chosen_R], num_images, values=values)


def hits_by_row(table: pa.Table, class_R: Ints) -> Ints:
    """Return each row's count [R] of the class named for it."""
    counts = class_counts(table, np.arange(len(table)), len(table), of_class=class_R)
    return np.asarray(counts.of(class_R), dtype=np.int64)


def added(total: ClassCounts, part: ClassCounts) -> ClassCounts:
    """Return the sum of both."""
    return ClassCounts.gather(
        part.num_images,
        np.concatenate([total.image_E, part.image_E]),
        np.concatenate([total.classes_E, part.classes_E]),
        np.concatenate([total.counts_E, part.counts_E]),
    )


def of_one_class(class_N: Ints, value_N: NDArray[Any]) -> ClassCounts:
    """Return counts of N images in which each has one class."""
    return ClassCounts(np.arange(len(class_N) + 1), class_N, value_N)


class Seen:
    """Which blocks of N images have been met: a bit of memory for each."""

    def __init__(self, num_images: int) -> None:
        """Start with none."""
        self._seen_NB = np.zeros((num_images, 1), dtype=bool)

    def again(self, table: pa.Table, image_R: Ints) -> NDArray[np.bool_]:
        """Tell of each row [R] whether its block was met before, and remember them all."""
        block_R = block_numbers(table)
        more = int(block_R.max(initial=0)) + 1 - self._seen_NB.shape[1]
        if more > 0:
            self._seen_NB = np.pad(self._seen_NB, ((0, 0), (0, more)))
        again_R = self._seen_NB[image_R, block_R]
        self._seen_NB[image_R, block_R] = True
        _, first = np.unique(np.ravel_multi_index((image_R, block_R), self._seen_NB.shape), True)
        again_R[np.setdiff1d(np.arange(len(again_R)), first)] = True
        return again_R


def unlike(again: pa.Table, table: pa.Table) -> int | None:
    """Return a row of `again` that is not as the same block in `table`; None where all agree."""
    if not len(table):
        return None
    keys, first = np.unique(_keys(table), return_index=True)
    place = np.minimum(np.searchsorted(keys, _keys(again)), len(keys) - 1)
    common = np.flatnonzero(keys[place] == _keys(again))
    mine, theirs = again.take(common), table.take(first[place[common]])
    if mine.equals(theirs):
        return None
    return next(
        int(row)
        for at, row in enumerate(common)
        if not mine.slice(at, 1).equals(theirs.slice(at, 1))
    )


def _keys(table: pa.Table) -> Ints:
    return (column(table, "index") << 32) + block_numbers(table)
