"""ClassCounts against dense numpy tables."""

import numpy as np
import pytest

from rsray.core.counts import ClassCounts


def triples(counts_NK, rng):
    """The table cut into several (image, class, count) triples per cell, shuffled."""
    image, cls = np.nonzero(counts_NK)
    total = counts_NK[image, cls]
    first = rng.integers(0, total + 1)
    parts = [np.concatenate(pair) for pair in ((image, image), (cls, cls), (first, total - first))]
    keep = rng.permutation(np.flatnonzero(parts[2] > 0))
    return [part[keep] for part in parts]


def to_dense(counts, num_classes):
    table = np.zeros((counts.num_images, num_classes), dtype=np.int64)
    table[counts.image_E, counts.classes_E] = counts.counts_E
    return table


@pytest.fixture(params=[(1, 2), (50, 10), (400, 1000), (3000, 5)], ids=str)
def table(request):
    num_images, num_classes = request.param
    rng = np.random.default_rng(num_images)
    counts_NK = rng.integers(0, 4, (num_images, num_classes))  # few values: many ties
    counts_NK[rng.random(counts_NK.shape) < 0.6] = 0
    counts_NK[rng.random(num_images) < 0.1] = 0  # images without draws
    return counts_NK, rng


def test_gather_sums_triples_in_any_order(table):
    counts_NK, rng = table
    gathered = ClassCounts.gather(len(counts_NK), *triples(counts_NK, rng))
    assert np.array_equal(to_dense(gathered, counts_NK.shape[1]), counts_NK)
    keys = gathered.image_E * counts_NK.shape[1] + gathered.classes_E
    assert np.all(np.diff(keys) > 0)  # sorted, each pair once


def test_dense_is_the_same_as_gathered(table):
    counts_NK, rng = table
    dense = ClassCounts.dense(counts_NK)
    gathered = ClassCounts.gather(len(counts_NK), *triples(counts_NK, rng))
    for name in ("offsets", "classes_E", "counts_E"):
        assert np.array_equal(getattr(dense, name), getattr(gathered, name))


def test_totals_top_and_of(table):
    counts_NK, rng = table
    counts = ClassCounts.dense(counts_NK)
    total_N = counts_NK.sum(axis=1)
    assert np.array_equal(counts.totals(), total_N)
    assert np.array_equal(counts.top(), np.where(total_N > 0, counts_NK.argmax(axis=1), -1))
    class_N = rng.integers(0, counts_NK.shape[1], len(counts_NK))
    assert np.array_equal(counts.of(class_N), counts_NK[np.arange(len(counts_NK)), class_N])
    assert not counts.of(np.full(len(counts_NK), -1)).any()


def test_without_and_the_runner_up(table):
    counts_NK, rng = table
    class_N = rng.integers(-1, counts_NK.shape[1], len(counts_NK))
    rest_NK = counts_NK.copy()
    named = class_N >= 0
    rest_NK[np.flatnonzero(named), class_N[named]] = 0
    rest = ClassCounts.dense(counts_NK).without(class_N)
    assert np.array_equal(to_dense(rest, counts_NK.shape[1]), rest_NK)
    assert np.array_equal(rest.totals(), rest_NK.sum(axis=1))
    top = np.where(rest_NK.sum(axis=1) > 0, rest_NK.argmax(axis=1), -1)
    assert np.array_equal(rest.top(), top)


def test_nothing_drawn():
    empty = ClassCounts.gather(3, *(np.empty(0, dtype=np.int64),) * 3)
    assert empty.num_images == 3
    assert empty.top().tolist() == [-1, -1, -1]
    assert empty.totals().tolist() == [0, 0, 0]
    assert empty.of(np.array([0, 1, 2])).tolist() == [0, 0, 0]


def test_large_counts_are_exact():
    big = 2**40 + 1
    counts = ClassCounts.gather(1, np.zeros(3, int), np.array([7, 7, 2]), np.array([big, big, 1]))
    assert counts.of(np.array([7])).tolist() == [2 * big]
    assert counts.totals().tolist() == [2 * big + 1]
