"""The plan as properties over random states of the store."""

from dataclasses import replace

import numpy as np
import pytest

from rsray.certification.counts.gathering import GatheredCounts, StoredDraws
from rsray.certification.counts.store import Selected
from rsray.certification.sampling_plan import SamplingPlan
from rsray.certification.work_items import (
    SMALLEST_TASK_SECONDS,
    TASK_SECONDS,
    WorkItem,
    _ranges,
    owed_items,
    share_out,
    task_draws,
)

CLASSES = 3


def random_state(seed):
    """Images, draws and a store that holds anything from nothing to everything."""
    rng = np.random.default_rng(seed)
    size, n, block_size = rng.integers(1, 20), int(rng.integers(1, 400)), int(rng.integers(1, 60))
    draws = SamplingPlan(int(rng.integers(1, 50)), n, block_size)
    indices = np.sort(rng.choice(1000, size, replace=False)).astype(np.int64)
    labels = rng.integers(0, CLASSES, size)
    selection = rng.random(size) < rng.random()
    done = StoredDraws(
        selection,
        rng.random((size, draws.num_blocks)) < rng.random(),
        np.where(selection, rng.integers(0, CLASSES, size), -1),
        np.full(size, draws.num_blocks),
        np.zeros(size, dtype=bool),
    )
    return indices, labels, done, draws, int(rng.integers(1, 9))


def owed(indices, labels, done, draws, *, sampling, blocks_per_item):
    """What is owed where the images want what the sampling says."""
    plan = replace(draws, sampling=sampling)
    wanted = plan.wanted_blocks(labels, done.selected_class_N, np.zeros(len(labels)))
    stored = replace(done, wanted_N=wanted)
    return owed_items(Selected(indices, labels), stored, blocks_per_item=blocks_per_item)


def nothing_done(num_images, draws):
    images = np.arange(num_images, dtype=np.int64)
    return GatheredCounts(Selected(images, images), draws).stored_draws()


def expected(indices, labels, done, draws, sampling):
    """Every owed (index, stage, block), by the definition."""
    pairs = set()
    for i, index in enumerate(indices.tolist()):
        if not done.selection_N[i]:
            pairs.add((index, "selection", 0))
        top = done.selected_class_N[i]
        if sampling == "skip" and top >= 0 and top != labels[i]:
            continue
        blocks = range(draws.num_blocks)
        pairs |= {(index, "estimation", b) for b in blocks if not done.estimation_NT[i, b]}
    return pairs


def owed_blocks(items):
    found = [(item.index, "selection", 0) for item in items if item.selection]
    for item in items:
        blocks = range(item.first_block, item.first_block + item.num_blocks)
        found += [(item.index, "estimation", block) for block in blocks]
    return found


@pytest.mark.parametrize("sampling", ["fixed", "skip"])
@pytest.mark.parametrize("seed", range(60))
def test_every_owed_block_exactly_once_and_no_other(seed, sampling):
    indices, labels, done, draws, longest = random_state(seed)
    items = list(owed(indices, labels, done, draws, sampling=sampling, blocks_per_item=longest))
    found = owed_blocks(items)
    assert len(found) == len(set(found))
    assert set(found) == expected(indices, labels, done, draws, sampling)
    assert all(item.num_blocks <= longest for item in items)
    assert all(item.num_blocks or item.selection for item in items)  # no empty work
    assert [item.index for item in items] == sorted(item.index for item in items)
    position = {index: i for i, index in enumerate(indices.tolist())}
    for item in items:
        i = position[item.index]
        assert item.label == labels[i] and item.selected_class == done.selected_class_N[i]


@pytest.mark.parametrize("sampling", ["fixed", "skip"])
@pytest.mark.parametrize("seed", range(20))
def test_doing_some_of_it_over_and_over_comes_to_an_end(seed, sampling):
    indices, labels, done, draws, longest = random_state(seed)
    rng = np.random.default_rng(seed + 1000)
    truth = rng.integers(0, CLASSES, len(indices))
    done.selected_class_N[:] = np.where(done.selection_N, truth, -1)
    position = {index: i for i, index in enumerate(indices.tolist())}
    for _ in range(200):
        items = list(owed(indices, labels, done, draws, sampling=sampling, blocks_per_item=longest))
        if not items:
            break
        for k in rng.permutation(len(items))[: max(1, len(items) // 2)]:
            item, i = items[k], position[items[k].index]
            if item.selection:
                done.selection_N[i], done.selected_class_N[i] = True, truth[i]
            if sampling == "fixed" or truth[i] == item.label:
                blocks = slice(item.first_block, item.first_block + item.num_blocks)
                assert not done.estimation_NT[i, blocks].any()
                done.estimation_NT[i, blocks] = True
    assert not items
    assert done.selection_N.all()
    needed = (truth == labels) | (sampling == "fixed")
    assert done.estimation_NT[needed].all()


@pytest.mark.parametrize(
    ("n", "block_size"), [(1, 1), (130, 40), (120, 40), (39, 40), (100_000, 1000)]
)
def test_blocks_add_up_to_n(n, block_size):
    draws = SamplingPlan(100, n, block_size)
    sizes = [draws.block_draws(block) for block in range(draws.num_blocks)]
    assert sum(sizes) == n and all(0 < size <= block_size for size in sizes)
    assert set(sizes[:-1]) <= {block_size}


def test_an_items_draws():
    draws = SamplingPlan(10, 130, 40)
    assert WorkItem(0, 1, 0, 2, True, -1).draws(draws) == 10 + 80
    assert WorkItem(0, 1, 2, 2, False, 1).draws(draws) == 40 + 10  # the last block is short
    assert WorkItem(0, 1, 0, 0, True, -1).draws(draws) == 10


def test_nothing_done():
    done = nothing_done(3, SamplingPlan(1, 4, 1))
    assert not done.selection_N.any() and done.estimation_NT.shape == (3, 4)
    assert done.selected_class_N.tolist() == [-1, -1, -1] and not done.estimation_NT.any()


def test_which_images_are_skipped():
    tops, label = np.array([-1, 0, 1]), np.array([1, 1, 1])
    assert not SamplingPlan(1, 4, 1, "fixed").skips(tops, label).any()
    for sampling in ("skip", "adaptive"):
        assert SamplingPlan(1, 4, 1, sampling).skips(tops, label).tolist() == [False, True, False]


@pytest.mark.parametrize("seed", range(30))
def test_runs_are_contiguous_and_cover(seed):
    rng = np.random.default_rng(seed)
    blocks = np.flatnonzero(rng.random(40) < rng.random())
    longest = int(rng.integers(1, 8))
    runs = _ranges(blocks, longest)
    assert [b for first, length in runs for b in range(first, first + length)] == blocks.tolist()
    assert all(1 <= length <= longest for _, length in runs)
    for (first, length), (following, _) in zip(runs, runs[1:], strict=False):
        assert following > first + length or length == longest  # cut only when full


def tasks_of(items, draws, **options):
    total = sum(item.draws(draws) for item in items)
    return list(share_out(items, draws, total=total, **options))


@pytest.mark.parametrize("may_cut", [True, False])
@pytest.mark.parametrize("seed", range(30))
def test_tasks_hold_every_block_once_in_order(seed, may_cut):
    indices, labels, done, draws, _ = random_state(seed)
    items = list(owed(indices, labels, done, draws, sampling="fixed", blocks_per_item=400))
    rng = np.random.default_rng(seed)
    actors, speed = int(rng.integers(1, 5)), float(rng.integers(1, 200))
    tasks = tasks_of(items, draws, actors=actors, draws_per_second=speed, may_cut=may_cut)
    assert all(tasks)
    shared = [item for task in tasks for item in task]
    assert owed_blocks(shared) == owed_blocks(sum(([item] for item in items), []))
    if not may_cut:
        assert shared == items


def test_tasks_grow_shorter_to_the_end_and_leave_no_actor_waiting():
    draws = SamplingPlan(100, 100_000, 1000)
    done = nothing_done(50, draws)
    images = np.arange(50, dtype=np.int64)
    items = list(owed(images, images, done, draws, sampling="fixed", blocks_per_item=100))
    tasks = tasks_of(items, draws, actors=2, draws_per_second=10_000)
    sizes = [sum(item.draws(draws) for item in task) for task in tasks]
    assert sum(sizes) >= 50 * 100_100
    longest, shortest = TASK_SECONDS * 10_000, SMALLEST_TASK_SECONDS * 10_000
    assert max(sizes) <= 1.1 * longest and max(sizes[-4:]) <= 2.5 * shortest
    assert np.mean(sizes[: len(sizes) // 2]) >= 0.9 * longest
    ends = [0.0, 0.0]  # of two actors, one half as fast, each taking the next task when free
    for size in sizes:
        actor = ends.index(min(ends))
        ends[actor] += size / (10_000 if actor else 5_000)
    assert abs(ends[0] - ends[1]) <= 3 * SMALLEST_TASK_SECONDS


def test_no_items_no_tasks():
    assert tasks_of([], SamplingPlan(1, 1, 1), actors=3, draws_per_second=100.0) == []


def test_tasks_are_made_one_by_one():
    """A run of millions of tasks holds a few of them at a time."""
    draws, taken = SamplingPlan(1, 100, 10), []

    def items():
        for index in range(1000):
            taken.append(index)
            yield WorkItem(index, 0, 0, 10, True, -1)

    tasks = share_out(items(), draws, total=101_000, actors=1, draws_per_second=10.1)
    next(tasks)
    assert len(taken) <= 2


@pytest.mark.parametrize("speed", [0.5, 700.0, 2e5])
@pytest.mark.parametrize("actors", [1, 2, 64, 1000])
def test_task_draws_are_monotone_and_bounded(actors, speed):
    totals = [0, 1, 10, 1000, 10**5, 10**7, 10**9, 10**12]
    sizes = [task_draws(total, actors, speed) for total in totals]
    assert sizes == sorted(sizes)
    low, high = max(1, round(SMALLEST_TASK_SECONDS * speed)), max(1, round(TASK_SECONDS * speed))
    assert all(low <= size <= high for size in sizes)
    assert sizes[0] == low and sizes[-1] == high
    assert all(isinstance(size, int) for size in sizes)


@pytest.mark.parametrize("total", [10**4, 10**6, 10**8])
def test_more_actors_get_tasks_that_are_no_larger(total):
    sizes = [task_draws(total, actors, 1000.0) for actors in range(1, 200)]
    assert sizes == sorted(sizes, reverse=True)
