"""What an actor does with a work item: selection if needed, estimation blocks, rows out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsray.certification.plan import Draws, Item, wants_estimation
from rsray.certification.sampler import Sampler
from rsray.certification.store import block_rows


@dataclass(frozen=True)
class WorkRules:
    """The settings of a run that decide which of an item's draws are made."""

    draws: Draws
    sampling: str


def do_item(
    sampler: Sampler, image_CHW: NDArray[np.uint8], item: Item, rules: WorkRules
) -> list[dict[str, object]]:
    """Return the rows of COUNTS that an item owes.

    An item that does not know its image's selected class makes the selection draws itself: they
    are the same wherever they are made, and 0.1 % of the work. Only the item that owes them
    stores them.
    """
    rows: list[dict[str, object]] = []
    selected = item.selected_class
    if item.selection or (selected < 0 and rules.sampling != "fixed"):
        blocks = [(0, rules.draws.n0)]
        counts = sampler.counts(image_CHW, item.index, "selection", blocks)
        selected = int(counts[0].argmax())
        if item.selection:
            rows += block_rows(item.index, item.label, "selection", blocks, counts)
    numbers = range(item.first_block, item.first_block + item.num_blocks)
    if len(numbers) and wants_estimation(selected, item.label, rules.sampling):
        blocks = [(block, rules.draws.block_draws(block)) for block in numbers]
        counts = sampler.counts(image_CHW, item.index, "estimation", blocks)
        rows += block_rows(item.index, item.label, "estimation", blocks, counts)
    return rows
