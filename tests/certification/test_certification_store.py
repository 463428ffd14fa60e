"""Counts survive a round trip; what is damaged or foreign never gets into a certificate."""

import errno
import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rsray.certification.plan import Draws
from rsray.certification.store import (
    COUNTS,
    SOFT_COUNTS,
    CountStore,
    DamagedError,
    Selected,
    block_rows,
    moment_rows,
)
from rsray.certification.sums import moments, totals, totals_of_top
from rsray.certification.tally import class_counts, column
from rsray.core.decide import Moments
from rsray.errors import UserError
from rsray.storage import Place

DRAWS = Draws(n0=20, n=130, block_size=40)
CLASSES = 6


def table(rows):
    return pa.Table.from_pylist(rows, schema=COUNTS)


@pytest.fixture
def store(tmp_path):
    return CountStore(Place.of(tmp_path), "run-1")


@pytest.fixture
def stored(store):
    """Random blocks of 30 images in parts of random sizes and order, and what was put in."""
    rng = np.random.default_rng(0)
    selected = Selected(np.sort(rng.choice(500, 30, replace=False)), rng.integers(0, CLASSES, 30))
    p = rng.dirichlet(np.full(CLASSES, 0.5), 30)
    selection = rng.multinomial(DRAWS.n0, p)
    sizes = [DRAWS.block_draws(block) for block in range(DRAWS.num_blocks)]
    estimation = np.stack([rng.multinomial(size, p) for size in sizes], axis=1)
    has_selection, has_block = rng.random(30) < 0.7, rng.random((30, len(sizes))) < 0.6
    rows = []
    for i, (index, label) in enumerate(
        zip(selected.indices.tolist(), selected.labels.tolist(), strict=True)
    ):
        if has_selection[i]:
            rows += block_rows(index, label, "selection", [(0, DRAWS.n0)], selection[i][None])
        blocks = [(b, sizes[b]) for b in np.flatnonzero(has_block[i]).tolist()]
        rows += block_rows(index, label, "estimation", blocks, estimation[i, has_block[i]])
    rows = [rows[k] for k in rng.permutation(len(rows))]
    cuts = np.sort(rng.choice(len(rows), 6, replace=False)).tolist()
    for start, stop in zip([0, *cuts], [*cuts, len(rows)], strict=True):
        store.append(table(rows[start:stop]))
    selection[~has_selection], estimation[~has_block] = 0, 0
    return selected, rows, selection, estimation, has_selection, has_block


def dense(counts):
    result = np.zeros((counts.num_images, CLASSES), dtype=np.int64)
    result[counts.image_E, counts.classes_E] = counts.counts_E
    return result


def test_rows_come_back_as_they_were(store, stored):
    rows = [row for part in store.parts() for row in part.to_pylist()]
    assert rows == stored[1]
    assert len(store.names()) == 7


def test_done_is_what_was_stored(store, stored):
    selected, _, selection, _, has_selection, has_block = stored
    done = store.done(selected, DRAWS)
    assert np.array_equal(done.selection_N, has_selection)
    assert np.array_equal(done.estimation_NT, has_block)
    want = np.where(has_selection, selection.argmax(axis=1), -1)  # the lowest class of a tie
    assert np.array_equal(done.selected_class_N, want)


def test_totals_of_the_parts_are_the_sums_over_blocks(store, stored):
    selected, _, selection, estimation, *_ = stored
    got = totals(store, selected)
    assert np.array_equal(dense(got[0]), selection)
    assert np.array_equal(dense(got[1]), estimation.sum(axis=1))


@pytest.mark.parametrize("num_classes", [3, 50])
def test_totals_of_the_selected_class_alone(store, num_classes):
    """As the whole totals say, in two numbers an image however many classes were seen."""
    rng = np.random.default_rng(num_classes)
    selected = Selected(np.array([2, 5, 8]), np.array([0, 1, 2]))
    for index in (5, 2):
        counts = rng.multinomial(40, np.ones(num_classes) / num_classes, 3)
        store.append(table(block_rows(index, 0, "estimation", [(b, 40) for b in range(3)], counts)))
        pilot = rng.multinomial(20, np.ones(num_classes) / num_classes, 1)
        store.append(table(block_rows(index, 0, "selection", [(0, 20)], pilot)))
    whole, brief = totals(store, selected), totals_of_top(store, selected, "counts")
    top = whole[0].top()
    assert np.array_equal(brief[0].top(), top) and top[2] == -1
    assert np.array_equal(brief[0].totals(), whole[0].totals())
    assert np.array_equal(brief[1].of(top), whole[1].of(top))
    assert np.array_equal(brief[1].totals(), whole[1].totals())
    assert len(brief[1].counts_E) == 2 * 3 and not brief[1].totals()[2]


def test_an_empty_store(store):
    selected = Selected(np.array([3, 9]), np.array([0, 1]))
    done = store.done(selected, DRAWS)
    assert not done.selection_N.any() and not done.estimation_NT.any()
    for counts in totals(store, selected):
        assert counts.num_images == 2 and not counts.totals().any()
    assert store.drop_damaged() == []


def test_parts_of_one_stage_only(store):
    selected = Selected(np.array([3, 9]), np.array([0, 1]))
    store.append(table(block_rows(9, 1, "selection", [(0, 20)], np.array([[0, 15, 5]]))))
    selection, estimation = totals(store, selected)
    assert selection.top().tolist() == [-1, 1] and not estimation.totals().any()
    store.append(table(block_rows(3, 0, "estimation", [(1, 40)], np.array([[40, 0, 0]]))))
    assert totals(store, selected)[1].totals().tolist() == [40, 0]
    assert store.done(selected, DRAWS).estimation_NT.tolist() == [
        [False, True, False, False],
        [False] * 4,
    ]


def test_block_rows_hold_the_classes_that_were_seen():
    rows = block_rows(4, 2, "estimation", [(0, 10), (3, 5)], np.array([[0, 7, 3], [5, 0, 0]]))
    assert [(row["block"], row["draws"]) for row in rows] == [(0, 10), (3, 5)]
    assert [(row["classes"], row["counts"]) for row in rows] == [([1, 2], [7, 3]), ([0], [5])]
    assert {(row["index"], row["label"], row["stage"]) for row in rows} == {(4, 2, "estimation")}
    with pytest.raises(ValueError):
        block_rows(4, 2, "estimation", [(0, 10)], np.array([[1, 2], [3, 4]]))


def test_class_counts_of_a_slice_of_a_table(stored):
    selected, rows, *_ = stored
    whole = table(rows)

    def counted(part):
        return class_counts(part, selected.positions(column(part, "index")), 30)

    assert np.array_equal(
        dense(counted(whole.slice(11, 20))),
        dense(counted(table(rows[11:31]))),
    )


@pytest.mark.parametrize("where", ["within a part", "between parts"])
@pytest.mark.parametrize(("stage", "block"), [("selection", 0), ("estimation", 2)])
def test_a_block_stored_twice_counts_once(store, where, stage, block):
    selected = Selected(np.array([3, 9]), np.array([0, 1]))
    rows = block_rows(9, 1, stage, [(block, 40)], np.array([[30, 10]]))
    other = block_rows(3, 0, stage, [(block, 40)], np.array([[0, 40]]))
    for part in [rows * 3 + other] if where == "within a part" else [rows, rows + other, rows]:
        store.append(table(part))
    done = store.done(selected, DRAWS)
    assert done.selection_N.sum() + done.estimation_NT.sum() == 2
    assert dense(sum_of(totals(store, selected)))[:, :2].tolist() == [[0, 40], [30, 10]]
    assert [row for part in store.blocks(selected) for row in part.to_pylist()] in (
        rows + other,
        other + rows,
    )
    assert store.drop_damaged() == []


def sum_of(both):
    return both[0] if both[0].totals().any() else both[1]


@pytest.mark.parametrize("where", ["within a part", "between parts"])
@pytest.mark.parametrize(("stage", "block"), [("selection", 0), ("estimation", 2)])
def test_two_unlike_counts_of_a_block_are_named(store, where, stage, block):
    selected = Selected(np.array([3, 9]), np.array([0, 1]))
    first, second = (
        block_rows(9, 1, stage, [(block, 40)], np.array([[30, 10]])),
        block_rows(9, 1, stage, [(block, 40)], np.array([[29, 11]])),
    )
    more = block_rows(3, 0, stage, [(block, 40)], np.array([[29, 11]]))
    parts = [more + first + second] if where == "within a part" else [more + first, first + second]
    for part in parts:
        store.append(table(part))
    words = f"counts holds two unlike counts of image 9, {stage} block {block}: delete part-0"
    for read in (lambda: store.done(selected, DRAWS), lambda: totals(store, selected)):
        with pytest.raises(UserError, match=words) as caught:
            read()
        assert "\n" not in str(caught.value)


def test_a_part_written_again_under_its_name_is_stored_once(store):
    selected = Selected(np.array([9]), np.array([1]))
    rows = table(block_rows(9, 1, "estimation", [(2, 40)], np.array([[30, 10]])))
    name = store.new_name()
    for _ in range(3):
        store.append(rows, name)
    assert store.names() == [name] and store.new_name() != name
    assert totals(store, selected)[1].totals().tolist() == [40]


def test_soft_sums_are_those_of_the_selected_class_alone(tmp_path):
    """As from all classes, at whatever order; what is held does not grow with the classes."""
    rng, num_images, classes = np.random.default_rng(0), 7, 50
    selected = Selected(np.arange(num_images), np.zeros(num_images, int))
    store, rows, truth = CountStore(Place.of(tmp_path), "soft"), [], []
    for index in range(num_images):
        counts = rng.multinomial(40, rng.dirichlet(np.full(classes, 0.05)), 4)
        sums = np.floor(rng.dirichlet(np.full(classes, 0.3), 4) * 40 * 2**24) / 2**24
        squares = sums / 2
        for stage, part in (("selection", slice(0, 1)), ("estimation", slice(1, 4))):
            blocks = [(block, 40) for block in range(part.stop - part.start)]
            values = (counts[part], sums[part], squares[part])
            rows += moment_rows(index, 0, stage, blocks, values)
        top = sums[0].argmax()
        truth.append((top, sums[0, top], sums[1:, top].sum(), squares[1:, top].sum()))
    for part in np.array_split(rng.permutation(len(rows)), 5):
        store.append(pa.Table.from_pylist([rows[k] for k in part], schema=SOFT_COUNTS))
    selection, estimation = totals(store, selected)
    assert selection.totals().tolist() == [40] * 7 and estimation.totals().tolist() == [120] * 7
    found = moments(store, selected, estimation)
    assert isinstance(found, Moments) and found.n.tolist() == [120] * 7
    tops = found.selection_sums.top()
    kept = (found.selection_sums, found.sums, found.square_sums)
    assert [tops.tolist(), *(each.of(tops).tolist() for each in kept)] == [
        list(column) for column in zip(*truth, strict=True)
    ]
    assert all(len(each.counts_E) == num_images for each in kept)
    assert len(estimation.counts_E) == (estimation.counts_E > 0).sum()


@pytest.mark.parametrize("stranger", [0, 5, 1000])
def test_an_image_that_is_not_selected_is_named(store, stranger):
    selected = Selected(np.array([3, 9]), np.array([0, 1]))
    store.append(table(block_rows(stranger, 1, "estimation", [(0, 40)], np.array([[40]]))))
    for read in (lambda: store.done(selected, DRAWS), lambda: totals(store, selected)):
        with pytest.raises(
            UserError, match=f"hold image {stranger}, which this run does not select"
        ):
            read()


def test_positions():
    selected = Selected(np.array([3, 9, 12]), np.zeros(3, int))
    assert selected.positions(np.array([12, 3, 12, 9])).tolist() == [2, 0, 2, 1]


@pytest.mark.parametrize("damage", [
    lambda data: data[: len(data) // 2], lambda data: data[:-1], lambda data: b"", lambda data: b"garbage" * 50,
    lambda data: bytes(len(data)),
], ids=["half", "one byte short", "empty", "garbage", "zeros"])  # fmt: skip
def test_a_damaged_part_is_dropped_and_its_blocks_are_owed(store, stored, damage, caplog):
    selected, *_ = stored
    victim = store.names()[2]
    lost = pq.read_table(pa.BufferReader(store.folder.read(victim))).num_rows
    before = store.done(selected, DRAWS)
    store.folder.write(victim, damage(store.folder.read(victim)))
    with caplog.at_level(logging.WARNING):
        assert store.drop_damaged() == [victim]
    assert victim in caplog.text and "counted again" in caplog.text
    assert victim not in store.names() and len(store.names()) == 6
    after = store.done(selected, DRAWS)
    gone = [
        (before.selection_N & ~after.selection_N),
        (before.estimation_NT & ~after.estimation_NT),
    ]
    assert sum(each.sum() for each in gone) == lost
    assert store.drop_damaged() == []


@pytest.mark.parametrize(("where", "name", "fault"), [
    (Place, "read", OSError(errno.EIO, "Input/output error")),
    (Place, "read", OSError(errno.EMFILE, "Too many open files")),
    (Place, "read", pa.ArrowMemoryError("malloc of size 64 failed")),
    (pq, "read_table", pa.ArrowMemoryError("malloc of size 64 failed")),
], ids=["EIO", "EMFILE", "no memory to read", "no memory to parse"])  # fmt: skip
def test_a_part_that_cannot_be_read_just_now_stays(store, stored, monkeypatch, where, name, fault):
    before = store.names()

    def fail(*arguments, **options):
        raise fault

    with monkeypatch.context() as patched:
        patched.setattr(where, name, fail)
        with pytest.raises(UserError, match=before[0]) as caught:
            store.drop_damaged()
    assert not isinstance(caught.value, DamagedError)
    assert store.names() == before and store.drop_damaged() == []


def test_another_runs_part_is_refused_not_deleted(store, tmp_path):
    other = CountStore(Place.of(tmp_path), "run-2")
    other.append(table(block_rows(3, 0, "estimation", [(0, 40)], np.array([[40]]))))
    selected = Selected(np.array([3]), np.array([0]))
    for use in (
        store.drop_damaged,
        lambda: store.done(selected, DRAWS),
        lambda: totals(store, selected),
    ):
        with pytest.raises(UserError, match="holds counts of another run"):
            use()
    assert len(store.names()) == 1


def test_a_parquet_file_of_no_run_is_refused(store):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": [1]}), sink)
    store.folder.write("part-000000-x.parquet", sink.getvalue().to_pybytes())
    with pytest.raises(UserError, match="another run"):
        store.drop_damaged()


def test_parts_never_overwrite_one_another(store):
    row = block_rows(3, 0, "estimation", [(0, 40)], np.array([[40]]))
    for _ in range(3):
        store.append(table(row))
    store.folder.delete(store.names()[0])
    store.append(table(row))
    assert len(store.names()) == 3


def test_a_table_of_another_shape_is_refused(store):
    with pytest.raises((pa.ArrowException, ValueError)):
        store.append(pa.table({"index": [1]}))
    assert store.names() == []


def test_every_column_says_what_it_means():
    assert all(field.metadata[b"meaning"] for field in COUNTS)
    assert not any(field.nullable for field in COUNTS)
