"""Which draws are still owed, cut into work items: pure functions of the request and the store."""

# Shapes: N selected images, T estimation blocks per image.
from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

ITEM_SECONDS = 10.0  # of work per task: the driver carries over 100 tasks a second (bench_fleet.py)
SMALLEST_SECONDS = 0.5  # tasks shrink down to this as the work comes to its end
TASKS_LEFT = 3  # that every actor should still get: actors then finish together


@dataclass(frozen=True)
class Draws:
    """How many draws an image gets: n0 of selection (one block), n of estimation in blocks."""

    n0: int
    n: int
    block_size: int

    @property
    def num_blocks(self) -> int:
        """The number of estimation blocks T of an image."""
        return -(-self.n // self.block_size)

    def block_draws(self, block: int) -> int:
        """Return the draws of estimation block `block`: the last one may be short."""
        return min(self.block_size, self.n - block * self.block_size)


@dataclass(frozen=True)
class Item:
    """A range of an image's estimation blocks, with its selection draws if they are owed."""

    index: int
    label: int
    first_block: int
    num_blocks: int
    selection: bool  # whether this item stores the selection draws too
    selected_class: int  # known from stored selection draws; -1 when not

    def draws(self, plan: Draws) -> int:
        """Return the number of draws the item makes at most."""
        blocks = range(self.first_block, self.first_block + self.num_blocks)
        return sum(map(plan.block_draws, blocks)) + (plan.n0 if self.selected_class < 0 else 0)


@dataclass(frozen=True)
class Done:
    """What is stored of N images: selection, estimation blocks, the selected class."""

    selection_N: NDArray[np.bool_]
    estimation_NT: NDArray[np.bool_]
    selected_class_N: NDArray[np.int64]  # -1 where the selection is not stored
    wanted_N: NDArray[np.int64] | None = None  # estimation blocks, where images want unlike numbers

    @classmethod
    def nothing(cls, num_images: int, num_blocks: int) -> Done:
        """Return the state of a run that has not begun."""
        return cls(
            np.zeros(num_images, dtype=bool),
            np.zeros((num_images, num_blocks), dtype=bool),
            np.full(num_images, -1, dtype=np.int64),
        )


def wants_estimation(selected_class: int, label: int, sampling: str) -> bool:
    """Tell whether an image's estimation draws can matter.

    With `skip` and `adaptive`, an image whose selected class is not its label contributes 0 to ACR
    and to every certified accuracy whatever the estimation says (rsray/core/README.md, 4).
    """
    return sampling == "fixed" or selected_class < 0 or selected_class == label


def owed(
    indices_N: NDArray[np.int64],
    labels_N: NDArray[np.int64],
    done: Done,
    draws: Draws,
    *,
    sampling: str,
    blocks_per_item: int,
) -> Iterator[Item]:
    """Yield the items whose draws are owed and not stored, in the order of the images."""
    for i, (index, label) in enumerate(zip(indices_N.tolist(), labels_N.tolist(), strict=True)):
        selected = int(done.selected_class_N[i])
        needs_selection = not done.selection_N[i]
        missing = np.flatnonzero(~done.estimation_NT[i])
        if not wants_estimation(selected, label, sampling):
            missing = missing[:0]
        if done.wanted_N is not None:
            missing = missing[missing < done.wanted_N[i]]
        runs = _runs(missing, blocks_per_item)
        if not runs and needs_selection:
            runs = [(0, 0)]
        for first, length in runs:
            yield Item(index, label, first, length, needs_selection, selected)
            needs_selection = False


def share_out(
    items: Iterable[Item],
    draws: Draws,
    *,
    total: int,
    actors: int,
    draws_per_second: float,
    may_cut: bool = True,
) -> Iterator[list[Item]]:
    """Yield the items, of `total` draws, in order, in tasks long at first and short at the end.

    Each task makes about `task_draws` of what is left then. With `may_cut` an item that is longer
    than its task has room for is cut between two blocks.
    """
    task: list[Item] = []
    left, room = total, 0
    for item in items:
        rest: Item | None = item
        while rest is not None:
            if room <= 0:
                if task:
                    yield task
                task, room = [], task_draws(left, actors, draws_per_second)
            part, rest = _cut(rest, draws, room) if may_cut else (rest, None)
            task.append(part)
            made = part.draws(draws)
            left, room = left - made, 0 if rest else room - made
    if task:
        yield task


def _cut(item: Item, draws: Draws, room: int) -> tuple[Item, Item | None]:
    """Return the item's first blocks, about `room` draws, and what remains of it."""
    taken = max(1, round(room / draws.block_size))
    if taken >= item.num_blocks:
        return item, None
    return replace(item, num_blocks=taken), replace(
        item,
        first_block=item.first_block + taken,
        num_blocks=item.num_blocks - taken,
        selection=False,
    )


def task_draws(draws_left: int, actors: int, draws_per_second: float) -> int:
    """Return how many draws the next task should make, of those not yet in a task.

    Several seconds of work for one actor; less towards the end, where actors would otherwise wait
    for one another.
    """
    fair = draws_left / max(1, actors * TASKS_LEFT)
    seconds = min(ITEM_SECONDS, max(SMALLEST_SECONDS, fair / draws_per_second))
    return max(1, round(seconds * draws_per_second))


def _runs(blocks: NDArray[np.int64], longest: int) -> list[tuple[int, int]]:
    """Return (first, length) of the contiguous runs in sorted `blocks`, cut to `longest`."""
    if not len(blocks):
        return []
    breaks = np.flatnonzero(np.diff(blocks) != 1) + 1
    runs = []
    for part in np.split(blocks, breaks):
        runs += [
            (int(part[at]), len(part[at : at + longest])) for at in range(0, len(part), longest)
        ]
    return runs
