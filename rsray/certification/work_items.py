"""Which draws are still owed, cut into work items: pure functions of the request and the store."""

# Shapes: N selected images, T estimation blocks per image.
from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rsray.certification.counts.gathering import StoredDraws
from rsray.certification.counts.store import Selected
from rsray.certification.sampling_plan import SamplingPlan

# Work in a task of a fleet that is not large.
TASK_SECONDS = 10.0
# Tasks shrink down to this as the work comes to its end.
SMALLEST_TASK_SECONDS = 0.5
# Tasks that every actor should still get: actors then finish together.
TASKS_LEFT_PER_ACTOR = 3


@dataclass(frozen=True)
class WorkItem:
    """A range of an image's estimation blocks, with its selection draws if they are owed."""

    index: int
    label: int
    first_block: int
    num_blocks: int
    # Whether this item stores the selection draws too.
    selection: bool
    # Known from stored selection draws; -1 when not.
    selected_class: int
    # Whether an earlier network makes the estimation draws too.
    is_paired: bool = False

    def draws(self, plan: SamplingPlan) -> int:
        """Return the number of draws the item makes at most."""
        blocks = range(self.first_block, self.first_block + self.num_blocks)
        return sum(map(plan.block_draws, blocks)) + (plan.n0 if self.selected_class < 0 else 0)


def owed_items(
    selected: Selected, stored: StoredDraws, *, blocks_per_item: int
) -> Iterator[WorkItem]:
    """Yield the items whose draws are wanted and not stored, in the order of the images."""
    images = zip(selected.indices.tolist(), selected.labels.tolist(), strict=True)
    for i, (index, label) in enumerate(images):
        needs_selection = not stored.selection_N[i]
        missing = np.flatnonzero(~stored.estimation_NT[i, : stored.wanted_N[i]])
        ranges = _ranges(missing, blocks_per_item)
        if not ranges and needs_selection:
            ranges = [(0, 0)]
        selected_class = int(stored.selected_class_N[i])
        for first, length in ranges:
            yield WorkItem(
                index, label, first, length, needs_selection, selected_class,
                bool(stored.is_paired_N[i]),
            )  # fmt: skip
            needs_selection = False


def share_out(
    items: Iterable[WorkItem],
    plan: SamplingPlan,
    *,
    total: int,
    actors: int,
    draws_per_second: float,
    may_cut: bool = True,
    longest: float = TASK_SECONDS,
) -> Iterator[list[WorkItem]]:
    """Yield the items, of `total` draws, in order, in tasks long at first and short at the end.

    Each task makes about `task_draws` of what is left then. With `may_cut` an item that is longer
    than its task has room for is cut between two blocks.
    """
    task: list[WorkItem] = []
    left, room = total, 0
    for item in items:
        rest: WorkItem | None = item
        while rest is not None:
            if room <= 0:
                if task:
                    yield task
                task, room = [], task_draws(left, actors, draws_per_second, longest)
            part, rest = _cut(rest, plan, room) if may_cut else (rest, None)
            task.append(part)
            made = part.draws(plan)
            left, room = left - made, 0 if rest else room - made
    if task:
        yield task


def _cut(item: WorkItem, plan: SamplingPlan, room: int) -> tuple[WorkItem, WorkItem | None]:
    """Return the item's first blocks, about `room` draws, and what remains of it."""
    taken = max(1, round(room / plan.block_size))
    if taken >= item.num_blocks:
        return item, None
    return replace(item, num_blocks=taken), replace(
        item,
        first_block=item.first_block + taken,
        num_blocks=item.num_blocks - taken,
        selection=False,
    )


def task_draws(
    draws_left: int, actors: int, draws_per_second: float, longest: float = TASK_SECONDS
) -> int:
    """Return how many draws the next task should make, of those not yet in a task.

    Several seconds of work for one actor; less towards the end, where actors would otherwise wait
    for one another.
    """
    fair = draws_left / max(1, actors * TASKS_LEFT_PER_ACTOR)
    seconds = min(longest, max(SMALLEST_TASK_SECONDS, fair / draws_per_second))
    return max(1, round(seconds * draws_per_second))


def _ranges(blocks: NDArray[np.int64], longest: int) -> list[tuple[int, int]]:
    """Return (first, length) of the contiguous ranges in sorted `blocks`, cut to `longest`."""
    if not len(blocks):
        return []
    breaks = np.flatnonzero(np.diff(blocks) != 1) + 1
    ranges = []
    for part in np.split(blocks, breaks):
        ranges += [
            (int(part[at]), len(part[at : at + longest])) for at in range(0, len(part), longest)
        ]
    return ranges
