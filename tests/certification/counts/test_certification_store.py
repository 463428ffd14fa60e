"""Counts survive a round trip; what is damaged or foreign never gets into a certificate."""

import errno
import logging
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rsray.certification.counts.gathering import GatheredCounts, gather
from rsray.certification.counts.store import CountStore, DamagedError, Selected
from rsray.certification.counts.tables import class_entries, counts_table
from rsray.certification.sampling_plan import SamplingPlan
from rsray.errors import UserError
from rsray.storage import Place
from rsray.storage.schemas import CERTIFICATES, COUNTS, PREDICTIONS, SOFT_COUNTS

PLAN = SamplingPlan(n0=20, n=130, block_size=40, bound_name="tcertify")
CLASSES = 6


def block_rows(*block):
    return counts_table(*block).to_pylist()


def stored_draws(store, selected):
    return gather(store, selected, PLAN).stored_draws()


def evidence(store, selected, plan=PLAN):
    return gather(store, selected, plan).evidence()


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
    selection = rng.multinomial(PLAN.n0, p)
    sizes = [PLAN.block_draws(block) for block in range(PLAN.num_blocks)]
    estimation = np.stack([rng.multinomial(size, p) for size in sizes], axis=1)
    has_selection, has_block = rng.random(30) < 0.7, rng.random((30, len(sizes))) < 0.6
    rows = []
    for i, (index, label) in enumerate(
        zip(selected.indices.tolist(), selected.labels.tolist(), strict=True)
    ):
        if has_selection[i]:
            rows += block_rows(index, label, "selection", [(0, PLAN.n0)], selection[i][None])
        blocks = [(b, sizes[b]) for b in np.flatnonzero(has_block[i]).tolist()]
        rows += block_rows(index, label, "estimation", blocks, estimation[i, has_block[i]])
    rows = [rows[k] for k in rng.permutation(len(rows))]
    cuts = np.sort(rng.choice(len(rows), 6, replace=False)).tolist()
    for start, stop in zip([0, *cuts], [*cuts, len(rows)], strict=True):
        store.append(table(rows[start:stop]))
    selection[~has_selection], estimation[~has_block] = 0, 0
    return selected, rows, selection, estimation, has_selection, has_block


def test_rows_come_back_as_they_were(store, stored):
    rows = [row for part in store.parts() for row in part.to_pylist()]
    assert rows == stored[1]
    assert len(store.names()) == 7


def test_done_is_what_was_stored(store, stored):
    selected, _, selection, _, has_selection, has_block = stored
    done = stored_draws(store, selected)
    assert np.array_equal(done.selection_N, has_selection)
    assert np.array_equal(done.estimation_NT, has_block)
    want = np.where(has_selection, selection.argmax(axis=1), -1)  # the lowest class of a tie
    assert np.array_equal(done.selected_class_N, want)


def by_hand(selection_NK, estimation_NK):
    """(class, n0, its selection draws, the next; n, its estimation draws, the next), image by image."""
    rows = []
    for pilot_K, counts_K in zip(selection_NK, estimation_NK, strict=True):
        top = int(pilot_K.argmax()) if pilot_K.any() else -1
        hits = [int(each[top]) if top >= 0 else 0 for each in (pilot_K, counts_K)]
        following = [
            int(np.delete(each, top).max()) if top >= 0 else 0 for each in (pilot_K, counts_K)
        ]
        rows.append(
            (top, pilot_K.sum(), hits[0], following[0], counts_K.sum(), hits[1], following[1])
        )
    return [list(column) for column in zip(*rows, strict=True)]


def columns_of(found):
    names = (
        "selected_class",
        "n0",
        "selection_hits",
        "selection_runner_up",
        "n",
        "hits",
        "runner_up",
    )
    return [getattr(found, name).tolist() for name in names]


def test_evidence_is_the_sums_over_blocks(store, stored):
    selected, _, selection, estimation, *_ = stored
    want = by_hand(selection, estimation.sum(axis=1))
    assert columns_of(evidence(store, selected)) == want
    plain = evidence(store, selected, replace(PLAN, bound_name="clopper-pearson"))
    assert columns_of(plain)[:-1] == want[:-1]  # the runner-up is not looked for


@pytest.mark.parametrize("seed", range(5))
def test_evidence_does_not_depend_on_the_order_of_blocks_and_parts(stored, seed):
    """Nor on whether an image's selection comes before its estimation."""
    selected, rows, selection, estimation, *_ = stored
    rng = np.random.default_rng(seed)
    gathered = GatheredCounts(selected, PLAN)
    for part in np.array_split(rng.permutation(len(rows)), rng.integers(1, 40)):
        gathered.add(table([rows[k] for k in part]))
    assert columns_of(gathered.evidence()) == by_hand(selection, estimation.sum(axis=1))


def test_classes_are_held_only_while_they_are_needed(store, stored):
    selected, rows, _, _, has_selection, has_block = stored
    gathered = gather(store, selected, PLAN)
    early = [row["index"] for part in gathered._early for row in part.to_pylist()]
    assert set(early) == set(selected.indices[~has_selection & has_block.any(axis=1)].tolist())
    some = has_selection & has_block.any(axis=1) & ~has_block.all(axis=1)
    assert set(gathered._others) <= set(np.flatnonzero(some).tolist())
    plain = gather(store, selected, replace(PLAN, bound_name="clopper-pearson"))
    assert not plain._others


def drop_damaged(store, selected):
    """Read all parts as a run does that goes on; returns the names of those that it deleted."""
    before = store.names()
    for _ in store.blocks(selected, drop_damaged=True):
        pass
    return [name for name in before if name not in store.names()]


def test_an_empty_store(store):
    selected = Selected(np.array([3, 9]), np.array([0, 1]))
    done = stored_draws(store, selected)
    assert not done.selection_N.any() and not done.estimation_NT.any()
    found = evidence(store, selected)
    assert found.selected_class.tolist() == [-1, -1] and not found.n0.any() and not found.n.any()
    assert drop_damaged(store, selected) == []


def test_parts_of_one_stage_only(store):
    selected = Selected(np.array([3, 9]), np.array([0, 1]))
    store.append(table(block_rows(9, 1, "selection", [(0, 20)], np.array([[0, 15, 5]]))))
    found = evidence(store, selected)
    assert found.selected_class.tolist() == [-1, 1] and not found.n.any()
    store.append(table(block_rows(3, 0, "estimation", [(1, 40)], np.array([[40, 0, 0]]))))
    assert evidence(store, selected).n.tolist() == [40, 0]
    assert stored_draws(store, selected).estimation_NT.tolist() == [
        [False, True, False, False],
        [False] * 4,
    ]


def test_block_rows_hold_the_classes_that_were_seen():
    found = counts_table(4, 2, "estimation", [(0, 10), (3, 5)], np.array([[0, 7, 3], [5, 0, 0]]))
    assert found.schema.equals(COUNTS, check_metadata=True)
    rows = found.to_pylist()
    assert [(row["block"], row["draws"]) for row in rows] == [(0, 10), (3, 5)]
    assert [(row["classes"], row["counts"]) for row in rows] == [([1, 2], [7, 3]), ([0], [5])]
    assert {(row["index"], row["label"], row["stage"]) for row in rows} == {(4, 2, "estimation")}
    with pytest.raises(ValueError):
        block_rows(4, 2, "estimation", [(0, 10)], np.array([[1, 2], [3, 4]]))


def test_entries_of_a_slice_of_a_table(stored):
    rows = stored[1]
    sliced, whole = class_entries(table(rows).slice(11, 20)), class_entries(table(rows[11:31]))
    assert np.array_equal(sliced.row_E, whole.row_E) and np.array_equal(
        sliced.class_E, whole.class_E
    )
    assert np.array_equal(sliced.values["counts"], whole.values["counts"])


@pytest.mark.parametrize("where", ["within a part", "between parts"])
@pytest.mark.parametrize(("stage", "block"), [("selection", 0), ("estimation", 2)])
def test_a_block_stored_twice_counts_once(store, where, stage, block):
    selected = Selected(np.array([3, 9]), np.array([0, 1]))
    rows = block_rows(9, 1, stage, [(block, 40)], np.array([[30, 10]]))
    other = block_rows(3, 0, stage, [(block, 40)], np.array([[0, 40]]))
    for part in [rows * 3 + other] if where == "within a part" else [rows, rows + other, rows]:
        store.append(table(part))
    done = stored_draws(store, selected)
    assert done.selection_N.sum() + done.estimation_NT.sum() == 2
    found = evidence(store, selected)
    assert (found.n0 + found.n).tolist() == [40, 40]
    if stage == "selection":
        assert found.selection_hits.tolist() == [40, 30]
    assert [row for part in store.blocks(selected) for row in part.to_pylist()] in (
        rows + other,
        other + rows,
    )
    assert sum(part.num_rows for part in store.parts()) > 2
    drop_damaged(store, selected)
    # A start stores it once, so that verify finds nothing.
    kept = [row for part in store.parts() for row in part.to_pylist()]
    assert kept in (rows + other, other + rows)


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
    with pytest.raises(UserError, match=words) as caught:
        stored_draws(store, selected)
    assert "\n" not in str(caught.value)


def test_a_part_written_again_under_its_name_is_stored_once(store):
    selected = Selected(np.array([9]), np.array([1]))
    rows = table(block_rows(9, 1, "estimation", [(2, 40)], np.array([[30, 10]])))
    name = store.new_name()
    for _ in range(3):
        store.append(rows, name)
    assert store.names() == [name] and store.new_name() != name
    assert evidence(store, selected).n.tolist() == [40]


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
            rows += block_rows(index, 0, stage, blocks, *values)
        top = sums[0].argmax()
        hits = counts[1:, top].sum()
        truth.append((top, sums[0, top], hits, sums[1:, top].sum(), squares[1:, top].sum()))
    for part in np.array_split(rng.permutation(len(rows)), 5):
        store.append(pa.Table.from_pylist([rows[k] for k in part], schema=SOFT_COUNTS))
    plan = SamplingPlan(n0=40, n=120, block_size=40, bound_name="hoeffding")
    found = evidence(store, selected, plan)
    assert found.n0.tolist() == [40] * 7 and found.n.tolist() == [120] * 7
    names = ("selected_class", "selection_hits", "hits", "sums", "square_sums")
    assert [getattr(found, name).tolist() for name in names] == [
        list(column) for column in zip(*truth, strict=True)
    ]


@pytest.mark.parametrize("stranger", [0, 5, 1000])
def test_an_image_that_is_not_selected_is_named(store, stranger):
    selected = Selected(np.array([3, 9]), np.array([0, 1]))
    store.append(table(block_rows(stranger, 1, "estimation", [(0, 40)], np.array([[40]]))))
    with pytest.raises(UserError, match=f"hold image {stranger}, which this run does not select"):
        stored_draws(store, selected)


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
    before = stored_draws(store, selected)
    store.folder.write(victim, damage(store.folder.read(victim)))
    with caplog.at_level(logging.WARNING):
        assert drop_damaged(store, selected) == [victim]
    assert victim in caplog.text and "counted again" in caplog.text
    assert victim not in store.names() and len(store.names()) == 6
    after = stored_draws(store, selected)
    gone = [
        (before.selection_N & ~after.selection_N),
        (before.estimation_NT & ~after.estimation_NT),
    ]
    assert sum(each.sum() for each in gone) == lost
    assert drop_damaged(store, selected) == []


@pytest.mark.parametrize(("where", "name", "fault"), [
    (Place, "read", OSError(errno.EIO, "Input/output error")),
    (Place, "read", OSError(errno.EMFILE, "Too many open files")),
    (Place, "read", pa.ArrowMemoryError("malloc of size 64 failed")),
    (pq, "read_table", pa.ArrowMemoryError("malloc of size 64 failed")),
], ids=["EIO", "EMFILE", "no memory to read", "no memory to parse"])  # fmt: skip
def test_a_part_that_cannot_be_read_just_now_stays(store, stored, monkeypatch, where, name, fault):
    selected, before = stored[0], store.names()

    def fail(*arguments, **options):
        raise fault

    with monkeypatch.context() as patched:
        patched.setattr(where, name, fail)
        with pytest.raises(UserError, match=before[0]) as caught:
            drop_damaged(store, selected)
    assert not isinstance(caught.value, DamagedError)
    assert store.names() == before and drop_damaged(store, selected) == []


def test_another_runs_part_is_refused_not_deleted(store, tmp_path):
    other = CountStore(Place.of(tmp_path), "run-2")
    other.append(table(block_rows(3, 0, "estimation", [(0, 40)], np.array([[40]]))))
    selected = Selected(np.array([3]), np.array([0]))
    for use in (drop_damaged, stored_draws):
        with pytest.raises(UserError, match="holds counts of another run"):
            use(store, selected)
    assert len(store.names()) == 1


def test_a_parquet_file_of_no_run_is_refused(store):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": [1]}), sink)
    store.folder.make().write("part-000000-x.parquet", sink.getvalue().to_pybytes())
    with pytest.raises(UserError, match="another run"):
        drop_damaged(store, Selected(np.array([3]), np.array([0])))


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


@pytest.mark.parametrize("schema", [COUNTS, SOFT_COUNTS, CERTIFICATES, PREDICTIONS])
def test_every_column_says_what_it_means(schema):
    assert all(field.metadata[b"meaning"] for field in schema)
    assert all(b"unit" in field.metadata for field in schema)
    assert not any(field.nullable for field in schema)


def test_a_sound_part_that_this_installation_cannot_read_stays(store, monkeypatch):
    store.append(table(block_rows(3, 0, "selection", [(0, 40)], np.array([[40, 0]]))))
    problem = pa.ArrowNotImplementedError("Support for codec 'zstd' not built")

    def lack(*given, **settings):
        raise problem

    monkeypatch.setattr(pq, "read_table", lack)
    monkeypatch.setattr(pa, "Codec", SimpleNamespace(is_available=lambda name: False))
    with pytest.raises(UserError, match="cannot read .* here: .*zstd"):
        drop_damaged(store, Selected(np.array([3]), np.array([0])))
    assert len(store.names()) == 1
