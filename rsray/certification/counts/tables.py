"""Tables of counts, as they are stored: made of arrays, and read as arrays."""

# Shapes: R rows (blocks of draws), T blocks of one image, E (row, class) pairs, K classes.
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rsray.core.noise import Stage
from rsray.storage.schemas import COUNTS, PAIRED_COUNTS, SOFT_COUNTS

Ints = NDArray[np.int64]
# Of each row's classes
LISTS = ("counts", "sums", "square_sums", "before", "kept")
# Of an image's blocks, the number of the first one of the estimation.
FIRST_BLOCK = 2


class ClassEntries(NamedTuple):
    """The classes that the draws of each row fell in, as one array for each column."""

    row_E: Ints
    class_E: Ints
    # By name: counts, and others of LISTS that are stored.
    values: dict[str, NDArray[Any]]


def counts_table(
    index: int,
    label: int,
    stage: Stage,
    blocks: Sequence[tuple[int, int]],
    counts_TK: NDArray[np.int64],
    *more_TK: NDArray[Any],
) -> pa.Table:
    """Return an image's blocks, given as (block, draws), in the stored schema.

    `more_TK` are the sums and the square sums of soft probabilities, where a bound needs them; or,
    as integers, how many draws an earlier network gave each class, and how many both did.
    """
    schema, tables = COUNTS, (counts_TK, *more_TK)
    if more_TK:
        schema = PAIRED_COUNTS if more_TK[0].dtype == np.int64 else SOFT_COUNTS
    # Where there are sums, a class is kept that any draw gave a probability.
    is_kept_TK = np.logical_or.reduce([each_TK > 0 for each_TK in tables[:2]])
    row_E, class_E = np.nonzero(is_kept_TK)
    offsets = np.concatenate(([0], np.cumsum(is_kept_TK.sum(axis=1)))).astype(np.int32)
    lists: tuple[Any, ...] = (
        class_E.astype(np.int32),
        *(each_TK[row_E, class_E] for each_TK in tables),
    )
    numbers, draws = (np.array(each) for each in zip(*blocks, strict=True)) if blocks else ([], [])
    columns = [
        np.full(len(blocks), index, dtype=np.int64),
        np.full(len(blocks), label, dtype=np.int32),
        pa.array([stage] * len(blocks), type=pa.string()),
        np.asarray(numbers, dtype=np.int32),
        np.asarray(draws, dtype=np.int64),
        *(pa.ListArray.from_arrays(pa.array(offsets, type=pa.int32()), each) for each in lists),
    ]
    return pa.table(dict(zip(schema.names, columns, strict=True)), schema=schema)


def column(table: pa.Table, name: str) -> Ints:
    """Return a column of integers [R]."""
    return table[name].to_numpy().astype(np.int64)


def is_selection(table: pa.Table) -> NDArray[np.bool_]:
    """Tell of each row [R] whether its draws are of the selection."""
    return np.asarray(pc.equal(table["stage"], pa.scalar("selection")).to_numpy(), dtype=np.bool_)


def is_reused(table: pa.Table) -> NDArray[np.bool_]:
    """Tell of each row [R] whether it holds all estimation draws of an earlier network."""
    return np.asarray(pc.equal(table["stage"], pa.scalar("reused")).to_numpy(), dtype=np.bool_)


def block_numbers(table: pa.Table) -> Ints:
    """Return which row of its image each [R] is: 0 selection, 1 reused counts, 2 ... estimation."""
    first_R = np.where(is_selection(table), 0, 1)
    is_estimation_R = ~(is_selection(table) | is_reused(table))
    return np.where(is_estimation_R, column(table, "block") + FIRST_BLOCK, first_R)


def block_keys(table: pa.Table) -> Ints:
    """Return a number [R] for each block, by which images and their blocks are in order."""
    return (column(table, "index") << 32) + block_numbers(table)


def rows_where(table: pa.Table, chosen_R: NDArray[np.bool_]) -> pa.Table:
    """Return the rows for which the mask [R] holds."""
    return table.filter(pa.array(chosen_R))


def class_entries(table: pa.Table) -> ClassEntries:
    """Return the class lists of the rows as flat arrays, in the order of the rows."""
    names = [name for name in table.column_names if name in LISTS]
    lists: Any = {name: table[name].combine_chunks() for name in ("classes", *names)}
    lengths = np.diff(lists["classes"].offsets.to_numpy()) if len(table) else []
    flat = {name: each.flatten().to_numpy(zero_copy_only=False) for name, each in lists.items()}
    row_E = np.repeat(np.arange(len(table)), lengths)
    return ClassEntries(row_E, flat.pop("classes").astype(np.int64), flat)


def counts_digest(table: pa.Table, so_far: int = 0) -> int:
    """Return a number of 64 bits for all that rows and those before count, in whatever order.

    It shows that a count was changed, moved or doubled; it is no signature, for whoever changes a
    count can compute it again.
    """
    entries = class_entries(table)
    row_R = _mixed(_mixed(_bits(column(table, "index"))) + _bits(block_numbers(table)))
    digest_E = _mixed(row_R[entries.row_E] + _bits(entries.class_E))
    for values_E in entries.values.values():
        digest_E = _mixed(digest_E + _bits(values_E))
    return (so_far + int(digest_E.sum(dtype=np.uint64))) % 2**64


def _bits(values: NDArray[Any]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(values).view(np.uint64)


def _mixed(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the numbers scattered over 64 bits, one to one (splitmix64); sums wrap around."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


class StoredBlocks:
    """Which blocks of N images have been met: a bit of memory for each."""

    def __init__(self, num_images: int) -> None:
        """Start with none."""
        self._is_met_NB = np.zeros((num_images, 1), dtype=bool)

    def is_repeated(self, table: pa.Table, image_R: Ints) -> NDArray[np.bool_]:
        """Tell of each row [R] whether its block was met before, and remember them all."""
        block_R = block_numbers(table)
        more = int(block_R.max(initial=0)) + 1 - self._is_met_NB.shape[1]
        if more > 0:
            self._is_met_NB = np.pad(self._is_met_NB, ((0, 0), (0, more)))
        repeated_R = self._is_met_NB[image_R, block_R]
        self._is_met_NB[image_R, block_R] = True
        cell_R = np.ravel_multi_index((image_R, block_R), self._is_met_NB.shape)
        _, first = np.unique(cell_R, return_index=True)
        repeated_R[np.setdiff1d(np.arange(len(repeated_R)), first)] = True
        return repeated_R


def first_difference(repeated: pa.Table, table: pa.Table) -> int | None:
    """Return a row of `repeated` unlike the same block in `table`; None where all agree."""
    if not len(table):
        return None
    keys, first = np.unique(block_keys(table), return_index=True)
    repeated_R = block_keys(repeated)
    place = np.minimum(np.searchsorted(keys, repeated_R), len(keys) - 1)
    common = np.flatnonzero(keys[place] == repeated_R)
    mine, theirs = repeated.take(common), table.take(first[place[common]])
    if mine.equals(theirs):
        return None
    return next(
        int(row)
        for at, row in enumerate(common)
        if not mine.slice(at, 1).equals(theirs.slice(at, 1))
    )
