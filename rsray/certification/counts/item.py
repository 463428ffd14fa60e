"""What an actor does with a work item: selection if needed, estimation blocks, a table out."""

# Shapes: T blocks, K classes.
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rsray.certification.counts.tables import counts_table
from rsray.certification.engine.sampler import Sampler
from rsray.certification.sampling_plan import SamplingPlan
from rsray.certification.work_items import WorkItem
from rsray.core.noise import Stage


def count_item(
    sampler: Sampler,
    image_CHW: NDArray[np.uint8],
    item: WorkItem,
    plan: SamplingPlan,
    earlier: Sampler | None = None,
) -> pa.Table:
    """Return the rows, in the plan's schema, that an item owes.

    An item that does not know its image's selected class makes the selection draws itself: they
    are the same wherever they are made, and 0.1 % of the work. Only the item that owes them
    stores them.
    """
    work = _ItemWork(sampler, image_CHW, item, plan, earlier)
    tables = [plan.counts_schema.empty_table()]
    selected, last = item.selected_class, item.first_block + item.num_blocks
    if item.selection and item.num_blocks and plan.is_same_for_all and earlier is None:
        return work.both_stages(last)
    if item.selection or plan.at_radius or (selected < 0 and plan.sampling != "fixed"):
        pilot = [(0, plan.n0)]
        values_1K = work.draw("selection", pilot)
        # Of soft bounds, the class of the largest mean probability is selected.
        selected_values_K = values_1K[1 if plan.bound.is_soft else 0][0]
        selected = int(selected_values_K.argmax())
        hits = float(selected_values_K[selected])
        last = min(last, plan.blocks_of_image(item.label, selected, hits))
        if item.selection:
            tables.append(work.table("selection", pilot, values_1K))
    if item.first_block < last:
        if plan.at_radius:
            tables += work.until_answered(selected, last)
        else:
            blocks = work.blocks_until(last)
            tables.append(work.table("estimation", blocks, work.draw("estimation", blocks)))
    return pa.concat_tables(tables)


@dataclass(frozen=True)
class _ItemWork:
    sampler: Sampler
    image_CHW: NDArray[np.uint8]
    item: WorkItem
    plan: SamplingPlan
    # Of the earlier network, whose counts are reused.
    earlier: Sampler | None

    def draw(
        self, stage: Stage, blocks: list[tuple[int, int]], *, selection_draws: int = 0
    ) -> tuple[NDArray[np.int64], *tuple[NDArray[Any], ...]]:
        """Return the counts [T, K] of the blocks, and what else the plan's schema has of them.

        With `selection_draws` a row of the selection comes first.
        """
        if self.earlier is not None:
            return self._draw_pairs(self.earlier, stage, blocks)
        own = (self.image_CHW, self.item.index, stage, blocks)
        if self.plan.bound.is_soft:
            return self.sampler.moments(*own, selection_draws=selection_draws)
        return (self.sampler.counts(*own, selection_draws=selection_draws),)

    def table(
        self, stage: Stage, blocks: list[tuple[int, int]], values_TK: tuple[NDArray[Any], ...]
    ) -> pa.Table:
        return counts_table(self.item.index, self.item.label, stage, blocks, *values_TK)

    def _draw_pairs(
        self, earlier: Sampler, stage: Stage, blocks: list[tuple[int, int]]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return the counts, those of the earlier network, and those on which both agree [T, K].

        Of estimation draws that an image does not want from both, the last two are 0.
        """
        own = (self.image_CHW, self.item.index, stage, blocks)
        if stage == "estimation" and not self.item.is_paired:
            counts_TK = self.sampler.counts(*own)
            return counts_TK, np.zeros_like(counts_TK), np.zeros_like(counts_TK)
        now_D, before_D = self.sampler.classes(*own), earlier.classes(*own)
        block_D = np.repeat(np.arange(len(blocks)), [draws for _, draws in blocks])
        tables = np.zeros((3, len(blocks), self.sampler.num_classes), dtype=np.int64)
        is_same_D = now_D == before_D
        np.add.at(tables[0], (block_D, now_D), 1)
        np.add.at(tables[1], (block_D, before_D), 1)
        np.add.at(tables[2], (block_D[is_same_D], now_D[is_same_D]), 1)
        return tables[0], tables[1], tables[2]

    def both_stages(self, last: int) -> pa.Table:
        """Return the item's selection and estimation rows, drawn at once.

        For estimation draws that are the same whatever the selection finds.
        """
        blocks = self.blocks_until(last)
        counts, *others = self.draw("estimation", blocks, selection_draws=self.plan.n0)
        first = (counts[:1], *(values[:1] for values in others))
        rest = (counts[1:], *(values[1:] for values in others))
        return pa.concat_tables(
            [
                self.table("selection", [(0, self.plan.n0)], first),
                self.table("estimation", blocks, rest),
            ]
        )

    def blocks_until(self, last: int) -> list[tuple[int, int]]:
        """Return the numbers and draws of the item's blocks before `last`."""
        return [(k, self.plan.block_draws(k)) for k in range(self.item.first_block, last)]

    def until_answered(self, selected: int, last: int) -> list[pa.Table]:
        """Return the item's rows up to the block that answers every radius.

        Blocks before the item's first are drawn again for their hits, and not stored again. As
        many are counted at once as fill a batch, for GPUs; those after the answer are dropped.
        """
        at_once = max(1, self.sampler.evaluation.batch_size // self.plan.block_size)
        tables: list[pa.Table] = []
        hits = draws = 0
        for first in range(0, last, at_once):
            numbers = range(first, min(first + at_once, last))
            blocks = [(block, self.plan.block_draws(block)) for block in numbers]
            values_TK = self.draw("estimation", blocks)
            hits_T = hits + np.cumsum(values_TK[0][:, selected])
            draws_T = draws + np.cumsum([made for _, made in blocks])
            is_answered_T = self.plan.is_answered(hits_T, draws_T)
            used = 1 + int(is_answered_T.argmax()) if is_answered_T.any() else len(blocks)
            skipped = min(max(0, self.item.first_block - first), used)
            kept = self.table("estimation", blocks, values_TK)
            tables.append(kept.slice(skipped, used - skipped))
            if is_answered_T.any():
                break
            hits, draws = int(hits_T[-1]), int(draws_T[-1])
        return tables
