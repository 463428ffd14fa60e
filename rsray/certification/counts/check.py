"""Stored counts looked at block by block: is each there that is owed, and no other."""

# Shapes: N images, B blocks of each: the selection, reused counts where there are, and those of
# the estimation; R rows.
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rsray.certification.checks.differences import Difference
from rsray.certification.counts.gathering import GatheredCounts
from rsray.certification.counts.store import CountStore, Selected
from rsray.certification.counts.tables import column, counts_digest, rows_where
from rsray.certification.sampling_plan import SamplingPlan
from rsray.errors import UserError

FILE = "counts"


def blocks_of_image(table: pa.Table, first: int = 1) -> NDArray[np.int64]:
    """Return which block of its image each row [R] is: 0 the selection, `first` ... the estimation.

    Reused counts are 1 where they come before the estimation. It is -1 for what is none of these.
    """
    stage_R, number_R = _stages(table), column(table, "block")
    block_R = np.where(stage_R == "estimation", number_R + first, -1)
    block_R[(stage_R == "selection") & (number_R == 0)] = 0
    block_R[(stage_R == "reused") & (number_R == 0) & (first > 1)] = 1
    return block_R


def _stages(table: pa.Table) -> NDArray[np.object_]:
    return np.asarray(table["stage"].to_numpy(zero_copy_only=False), dtype=object)


class CheckedCounts:
    """The counts of a store, each block once, and what is wrong with how they are stored."""

    def __init__(self, store: CountStore, selected: Selected, plan: SamplingPlan) -> None:
        """Read every part once; what cannot be read or is of no use is a difference."""
        self.selected, self.plan = selected, plan
        self.gathered = GatheredCounts(selected, plan)
        # Reused counts are any number of draws; whether they are those of the CERT that they come
        # from is not looked at here.
        before = [plan.n0, -1] if plan.is_paired else [plan.n0]
        self.first = len(before)
        self._draws_B = np.array([*before, *map(plan.block_draws, range(plan.num_blocks))])
        self.copies_NB = np.zeros((len(selected.indices), len(self._draws_B)), dtype=np.int64)
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
        cell_R = np.ravel_multi_index((position_R, block_R), self.copies_NB.shape)
        is_first_R = np.zeros(len(cell_R), dtype=bool)
        is_first_R[np.unique(cell_R, return_index=True)[1]] = True
        is_first_R &= self.copies_NB.ravel()[cell_R] == 0
        np.add.at(self.copies_NB.reshape(-1), cell_R, 1)
        table = rows_where(table, is_first_R)
        self.gathered.add(table)
        self.gathered.digest = counts_digest(table, self.gathered.digest)

    def _look_up(
        self, table: pa.Table
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Return which image and which block each row [R] holds, and whether there is such."""
        index_R, number_R = column(table, "index"), column(table, "block")
        indices, stage_R = self.selected.indices, _stages(table)
        position_R = np.minimum(np.searchsorted(indices, index_R), len(indices) - 1)
        block_R = blocks_of_image(table, self.first)
        is_known_R = (indices[position_R] == index_R) & (number_R >= 0)
        is_known_R &= (block_R >= 0) & (block_R < self.copies_NB.shape[1])
        for row in np.flatnonzero(~is_known_R).tolist():
            what = f"copies of {stage_R[row]} block {number_R[row]} of image {index_R[row]}"
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
        owed_N1 = wanted_N[:, None] + self.first
        owed_NB = (np.arange(self.copies_NB.shape[1]) < owed_N1).astype(np.int64)
        is_wrong_NB = self.copies_NB != owed_NB
        whole_N = ~is_wrong_NB.any(axis=1)
        is_wrong_NB[failed_N] &= self.copies_NB[failed_N] > owed_NB[failed_N]
        for image, block in np.argwhere(is_wrong_NB).tolist():
            before = ("selection block 0", "reused block 0")[: self.first]
            stage = [*before, f"estimation block {block - self.first}"][min(block, self.first)]
            what = f"copies of {stage} of image {self.selected.indices[image]}"
            stored, owed = self.copies_NB[image, block].item(), owed_NB[image, block].item()
            yield Difference(FILE, what, stored, owed)
        for image in self.selected.indices[whole_N & failed_N].tolist():
            yield Difference(FILE, f"image {image}", "all there", "failed")
