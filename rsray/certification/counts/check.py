"""Stored counts looked at block by block: is each there that is owed, and no other."""

# Shapes: N images, B blocks of each as `block_numbers` counts them, R rows.
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rsray.certification.checks.differences import Difference
from rsray.certification.counts.gathering import GatheredCounts
from rsray.certification.counts.store import CountStore, Selected
from rsray.certification.counts.tables import (
    FIRST_BLOCK,
    StoredBlocks,
    block_numbers,
    column,
    counts_digest,
    is_reused,
    rows_where,
)
from rsray.certification.sampling_plan import SamplingPlan
from rsray.errors import UserError

FILE = "counts"


class CheckedCounts:
    """The counts of a store, each block once, and what is wrong with how they are stored."""

    def __init__(self, store: CountStore, selected: Selected, plan: SamplingPlan) -> None:
        """Read every part once; what cannot be read or is of no use is a difference."""
        self.selected, self.plan = selected, plan
        self.gathered = GatheredCounts(selected, plan)
        # Reused counts are any number of draws; whether they are those of the CERT that they come
        # from is not looked at here.
        self._draws_B = np.array([plan.n0, -1, *map(plan.block_draws, range(plan.num_blocks))])
        self.copies_NB = np.zeros((len(selected.indices), len(self._draws_B)), dtype=np.int64)
        self._met = StoredBlocks(len(selected.indices))
        self.differences: list[Difference] = []
        for name in store.names():
            try:
                table = store.read(name)
            except UserError as problem:
                self.differences.append(Difference(f"{FILE}/{name}", "it", str(problem), "whole"))
                continue
            self._add(table)

    def _add(self, table: pa.Table) -> None:
        """Count the copies of each block, and gather its first."""
        position_R, block_R, is_known_R = self._look_up(table)
        table = rows_where(table, is_known_R)
        position_R, block_R = position_R[is_known_R], block_R[is_known_R]
        self._compare(table, "label", self.selected.labels[position_R])
        self._compare(table, "draws", self._draws_B[block_R])
        np.add.at(self.copies_NB, (position_R, block_R), 1)
        table = rows_where(table, ~self._met.is_repeated(table, position_R))
        self.gathered.add(table)
        self.gathered.digest = counts_digest(table, self.gathered.digest)

    def _look_up(
        self, table: pa.Table
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Return which image and which block each row [R] holds, and whether there is such."""
        index_R, block_R = column(table, "index"), block_numbers(table)
        indices = self.selected.indices
        position_R = np.minimum(np.searchsorted(indices, index_R), len(indices) - 1)
        is_known_R = (indices[position_R] == index_R) & (block_R < self.copies_NB.shape[1])
        is_known_R &= (block_R >= FIRST_BLOCK) | (column(table, "block") == 0)
        is_known_R &= self.plan.is_paired | ~is_reused(table)
        for row in rows_where(table, ~is_known_R).to_pylist():
            what = f"copies of {row['stage']} block {row['block']} of image {row['index']}"
            self.differences.append(Difference(FILE, what, 1, 0))
        return position_R, block_R, is_known_R

    def _compare(self, table: pa.Table, name: str, expected_R: NDArray[np.int64]) -> None:
        stored_R = column(table, name)
        for row in np.flatnonzero((stored_R != expected_R) & (expected_R >= 0)).tolist():
            index, stage, block = (table[key][row].as_py() for key in ("index", "stage", "block"))
            what = f"{name} in {stage} block {block} of image {index}"
            self.differences.append(
                Difference(FILE, what, int(stored_R[row]), int(expected_R[row]))
            )

    def copies(
        self, wanted_N: NDArray[np.int64], failed_N: NDArray[np.bool_]
    ) -> Iterator[Difference]:
        """Yield each block that is not stored once though it is owed, or that is not owed.

        Images that failed may lack some, and do lack one.
        """
        owed_N1 = wanted_N[:, None] + FIRST_BLOCK
        owed_NB = (np.arange(self.copies_NB.shape[1]) < owed_N1).astype(np.int64)
        owed_NB[:, 1] = self.plan.is_paired
        is_wrong_NB = self.copies_NB != owed_NB
        whole_N = ~is_wrong_NB.any(axis=1)
        is_wrong_NB[failed_N] &= self.copies_NB[failed_N] > owed_NB[failed_N]
        for image, block in np.argwhere(is_wrong_NB).tolist():
            stage = ("selection", "reused", "estimation")[min(block, FIRST_BLOCK)]
            number = max(0, block - FIRST_BLOCK)
            what = f"copies of {stage} block {number} of image {self.selected.indices[image]}"
            stored, owed = self.copies_NB[image, block].item(), owed_NB[image, block].item()
            yield Difference(FILE, what, stored, owed)
        for image in self.selected.indices[whole_N & failed_N].tolist():
            yield Difference(FILE, f"image {image}", "all there", "failed")
