"""Stored blocks summed over each image's draws: what certificates are computed from."""

# Shapes: N selected images.
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rsray.certification.store import CountStore, Selected
from rsray.certification.tally import (
    added,
    class_counts,
    column,
    is_selection,
    of_one_class,
    selection_counts,
)
from rsray.core.counts import ClassCounts
from rsray.core.decide import Moments

OTHERS = -2  # stands for all classes but one; -1 is no class at all
Ints = NDArray[np.int64]


def totals(store: CountStore, selected: Selected) -> tuple[ClassCounts, ClassCounts]:
    """Return the selection and estimation counts of the selected images, of every class seen."""
    num_images = len(selected.indices)
    selection = estimation = _nothing(num_images)
    for table in store.blocks(selected):
        position = selected.positions(column(table, "index"))
        selection = added(selection, selection_counts(table, position, num_images, "counts"))
        rows, position = _estimation(table, position)
        estimation = added(estimation, class_counts(rows, position, num_images))
    return selection, estimation


def totals_of_top(
    store: CountStore, selected: Selected, counted: str
) -> tuple[ClassCounts, ClassCounts]:
    """Return the same, but an estimation draw counts for its image's selected class or OTHERS.

    That class has the most selection draws (`counted` is "counts") or soft probability ("sums").
    Two passes, so that memory does not grow with the classes.
    """
    num_images = len(selected.indices)
    selection, top_N = _nothing(num_images), np.full(num_images, -1, dtype=np.int64)
    for table in store.blocks(selected):
        position = selected.positions(column(table, "index"))
        selection = added(selection, selection_counts(table, position, num_images, "counts"))
        tops = selection_counts(table, position, num_images, counted).top()
        top_N[tops >= 0] = tops[tops >= 0]
    hits_N, n_N = np.zeros(num_images, dtype=np.int64), np.zeros(num_images, dtype=np.int64)
    for rows, position in _estimation_rows(store, selected):
        hits_N += class_counts(rows, position, num_images, of_class=top_N).of(top_N)
        np.add.at(n_N, position, column(rows, "draws"))
    classes = np.stack([np.full(num_images, OTHERS), top_N], axis=1)
    counts = np.stack([n_N - hits_N, hits_N], axis=1)
    offsets = np.arange(0, 2 * num_images + 1, 2)
    return selection, ClassCounts(offsets, classes.ravel(), counts.ravel())


def moments(store: CountStore, selected: Selected, estimation: ClassCounts) -> Moments:
    """Return what soft bounds need beside the estimation counts: of the selected classes alone.

    Two passes, so that memory does not grow with the classes: every draw has a soft probability of
    each.
    """
    num_images = len(selected.indices)
    top_N, pilot_N = np.full(num_images, -1, dtype=np.int64), np.zeros(num_images)
    for table in store.blocks(selected):
        position = selected.positions(column(table, "index"))
        part = selection_counts(table, position, num_images, "sums")
        tops = part.top()
        top_N[tops >= 0] = tops[tops >= 0]
        pilot_N += part.of(tops)
    sums = {"sums": np.zeros(num_images), "square_sums": np.zeros(num_images)}
    for rows, position in _estimation_rows(store, selected):
        for values, sum_N in sums.items():
            part = class_counts(rows, position, num_images, values=values, of_class=top_N)
            sum_N += part.of(top_N)
    pilot, first, squares = (of_one_class(top_N, each) for each in (pilot_N, *sums.values()))
    return Moments(pilot, first, squares, estimation, estimation.totals())


def _nothing(num_images: int) -> ClassCounts:
    return ClassCounts.gather(num_images, *(np.empty(0, dtype=np.int64),) * 3)


def _estimation(table: pa.Table, position: Ints) -> tuple[pa.Table, Ints]:
    """Return the rows that are of the estimation, and the positions of their images."""
    chosen = ~is_selection(table)
    return table.filter(pa.array(chosen)), position[chosen]


def _estimation_rows(store: CountStore, selected: Selected) -> Iterator[tuple[pa.Table, Ints]]:
    for table in store.blocks(selected):
        yield _estimation(table, selected.positions(column(table, "index")))
