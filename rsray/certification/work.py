"""What an actor does with a work item: selection if needed, estimation blocks, rows out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsray.certification.demand import Demand
from rsray.certification.engine.sampler import Sampler
from rsray.certification.plan import Item
from rsray.certification.store import block_rows, moment_rows
from rsray.core.noise import Stage

WorkRules = Demand  # the settings of a run that decide which of an item's draws are made


def do_item(
    sampler: Sampler, image_CHW: NDArray[np.uint8], item: Item, rules: WorkRules
) -> list[dict[str, object]]:
    """Return the rows of COUNTS (SOFT_COUNTS for soft bounds) that an item owes.

    An item that does not know its image's selected class makes the selection draws itself: they
    are the same wherever they are made, and 0.1 % of the work. Only the item that owes them
    stores them.
    """
    work = _Work(sampler, image_CHW, item, rules)
    rows: list[dict[str, object]] = []
    selected = item.selected_class
    last = item.first_block + item.num_blocks
    if item.selection or (selected < 0 and rules.sampling != "fixed") or rules.at_radius:
        stored = work.rows("selection", [(0, rules.draws.n0)])
        selected, hits = _top(stored[0], rules.counted)
        last = min(last, rules.blocks(item.label, selected, hits))
        rows += stored if item.selection else []
    if last <= item.first_block:
        return rows
    if rules.at_radius:
        return rows + work.until_answered(selected, last)
    return rows + work.estimation(range(item.first_block, last))


@dataclass(frozen=True)
class _Work:
    sampler: Sampler
    image_CHW: NDArray[np.uint8]
    item: Item
    rules: Demand

    def rows(self, stage: Stage, blocks: list[tuple[int, int]]) -> list[dict[str, object]]:
        index, label = self.item.index, self.item.label
        if self.rules.soft:
            moments = self.sampler.moments(self.image_CHW, index, stage, blocks)
            return moment_rows(index, label, stage, blocks, moments)
        counts = self.sampler.counts(self.image_CHW, index, stage, blocks)
        return block_rows(index, label, stage, blocks, counts)

    def estimation(self, numbers: Iterable[int]) -> list[dict[str, object]]:
        blocks = [(block, self.rules.draws.block_draws(block)) for block in numbers]
        return self.rows("estimation", blocks)

    def until_answered(self, selected: int, last: int) -> list[dict[str, object]]:
        """Return the item's rows up to the block that answers every radius.

        Blocks before the item's first are drawn again for their hits, and not stored again. As
        many are counted at once as fill a batch, for GPUs; those after the answer are dropped.
        """
        at_once = max(1, self.sampler.evaluation.batch_size // self.rules.draws.block_size)
        rows: list[dict[str, object]] = []
        hits = draws = 0
        for first in range(0, last, at_once):
            numbers = range(first, min(first + at_once, last))
            for block, row in zip(numbers, self.estimation(numbers), strict=True):
                hits += _count(row, selected)
                draws += self.rules.draws.block_draws(block)
                rows += [row] if block >= self.item.first_block else []
                if self.rules.answered(hits, draws):
                    return rows
        return rows


def _top(row: dict[str, Any], column: str) -> tuple[int, float]:
    best = int(np.argmax(row[column]))
    return int(row["classes"][best]), float(row[column][best])


def _count(row: dict[str, Any], selected: int) -> int:
    return sum(
        count for cls, count in zip(row["classes"], row["counts"], strict=True) if cls == selected
    )
