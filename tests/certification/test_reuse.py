"""Counts of one network that certify another near it: what is drawn, what is refused, what holds."""

import copy
import hashlib
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rsray.certification.checks.verify import verify
from rsray.certification.folder import finish, run_id
from rsray.certification.recertify import recertify
from rsray.certification.reuse import PART, EarlierCertification, check_repeated, open_earlier
from rsray.core.bounds import clopper_pearson_lower, clopper_pearson_upper
from rsray.core.bounds.reused_counts import pairs_say_more
from rsray.errors import UserError
from rsray.results.certificates import read_certificates
from rsray.storage import Place
from rsray.storage.schemas import PAIRED_COUNTS

N, PAIRS = 4000, 400
FACTORY = """
from torch import nn
class Net(nn.Linear):
    def __init__(self, num_classes):
        super().__init__(64, num_classes)
    def forward(self, images):
        return super().forward(images.flatten(1))
"""
DRAWS = {"n0": 40, "block_size": 100, "sigma": 0.1}


@pytest.fixture(scope="module")
def counted(tmp_path_factory, small_run_at):
    """The folder of a certification whose draws are made."""
    folder = tmp_path_factory.mktemp("counted") / "earlier"
    small_run_at(folder, n=N, **DRAWS).count()
    return folder


@pytest.fixture
def earlier(counted, tmp_path, small_run):
    shutil.copytree(counted, tmp_path / "earlier")
    run = small_run("earlier", n=N, **DRAWS)
    finish(run.claimed, run.gathered(), seconds=1.0, failed={})
    return run


def near(model, by=0.002):
    """A network that differs from another as one that was rounded or trained a little more."""
    rng = torch.Generator().manual_seed(3)
    new = copy.deepcopy(model)
    with torch.no_grad():
        for values in new.parameters():
            values.add_(by * values.std(correction=0) * torch.randn(values.shape, generator=rng))
    return new


@pytest.fixture
def reusing(small_run, earlier):
    def make(name="new", **settings):
        found = open_earlier(str(earlier.where))
        values = {"n": PAIRS, "reuse": str(earlier.where), "reused_run": run_id(earlier.config)}
        run = small_run(name, **{**DRAWS, **values, **settings})
        run.earlier_model, run.model = earlier.model, near(earlier.model)
        run.store.append(found.reused_rows(run.selected, run.claimed.plan.num_blocks), PART)
        return run

    return make


def done(run):
    return finish(run.claimed, run.gathered(), seconds=1.0, failed={})


def totals(rows, stage, name):
    """The lists of each image's rows, summed by class."""
    found = {}
    for row in rows:
        if row["stage"] == stage:
            total = found.setdefault(row["index"], np.zeros(4, dtype=np.int64))
            total[row["classes"]] += row[name]
    return found


def test_certificates_are_those_of_the_formula(reusing, earlier):
    run = reusing()
    run.count()
    summary = done(run)
    rows = pq.read_table(run.where.local_path / "counts").to_pylist()
    old_rows = [
        row
        for row in pq.read_table(earlier.where.local_path / "counts").to_pylist()
        if row["block"] >= PAIRS // 100
    ]
    old = totals(old_rows, "estimation", "counts")
    now, before, kept = (totals(rows, "estimation", name) for name in ("counts", "before", "kept"))
    pilot, pilot_before, pilot_kept = (
        totals(rows, "selection", name) for name in ("counts", "before", "kept")
    )
    found = read_certificates(f"{run.where}/certificates.parquet")
    branches = set()
    for position, index in enumerate(found.index.tolist()):
        a, pairs, left = int(pilot[index].argmax()), int(before[index].sum()), N - PAIRS
        assert pairs in (0, PAIRS)
        lost = pilot_before[index][a] - pilot_kept[index][a]
        is_through = pairs and pairs_say_more(old[index][a], left, lost, 40, PAIRS, 0.05)
        want = clopper_pearson_lower(now[index][a], PAIRS, 0.75 * 0.05)
        if is_through:
            lost = clopper_pearson_upper(before[index][a] - kept[index][a], PAIRS, 0.75 * 0.05)
            want = clopper_pearson_lower(old[index][a], left, 0.25 * 0.05) - lost
        branches.add(bool(is_through))
        want = max(want - run.config.total_variation, 0.0)
        assert found.p_a_lower[position] == want and found.n[position] == PAIRS
    assert branches == {False, True} and found.metadata["bound"] == "reused-counts"
    paired = sum(int(total.sum()) for total in before.values())
    spent = summary["reused"]
    assert spent["draws_of_both"] == 12 * (40 + PAIRS) + 12 * 40 + paired
    assert spent["draws_of_fresh"] == 12 * (40 + N) > 4 * spent["draws_of_both"]


def test_where_all_draws_are_paired_nothing_is_left_to_reuse(reusing):
    """Every image owes a row of reused counts: here one of no draws."""
    run = reusing(n=N)
    run.count()
    done(run)
    assert verify(run.where).differences == ()


def test_what_was_stored_is_verified(reusing):
    run = reusing()
    run.count()
    done(run)
    assert verify(run.where).differences == ()
    recertify(run.where, Place.of(f"{run.where}-again"), alpha=0.2)
    assert verify(Place.of(f"{run.where}-again")).differences == ()
    part = run.where.local_path / "counts" / "part-reused.parquet"
    kept = pq.read_table(part).slice(1)
    run.store.append(kept, part.name)
    lines = [str(difference) for difference in verify(run.where).differences]
    assert lines[0] == "counts: copies of reused block 0 of image 5 is 0, not 1", lines


def test_the_earlier_network_draws_only_where_it_is_wanted(reusing):
    run = reusing()
    items = run.items()
    assert any(item.is_paired for item in items)
    for paired, alone in zip(
        run.tables(items), run.tables(replace(item, is_paired=False) for item in items), strict=True
    ):
        counts = [
            totals(table.to_pylist(), "estimation", "counts").popitem()[1].tolist()
            for table in (paired, alone)
        ]
        assert counts[0] == counts[1]
        for name in ("before", "kept"):
            assert totals(alone.to_pylist(), "estimation", name).popitem()[1].sum() == 0


def test_split_order_and_interruptions_change_nothing(reusing):
    whole, cut = reusing("whole"), reusing("cut")
    whole.count()
    cut.count(cut.items(1)[::-1][::3])
    cut.count(cut.items(3))
    assert cut.items() == [] and done(whole) | {"seconds": 0} == done(cut) | {"seconds": 0}
    tables = [pq.read_table(f"{run.where}/certificates.parquet") for run in (whole, cut)]
    assert tables[0].equals(tables[1])


def test_verify_knows_what_is_reused(reusing):
    run = reusing()
    run.count()
    done(run)
    assert verify(run.where).is_equal
    part = run.store.read(PART).to_pylist()
    part[0]["counts"][0] -= 1
    part[0]["draws"] -= 1
    run.store.append(pa.Table.from_pylist(part, schema=PAIRED_COUNTS), PART)
    assert not verify(run.where).is_equal


def test_recertify_needs_neither_network_nor_earlier_counts(reusing, earlier):
    run = reusing()
    run.count()
    before = done(run)
    earlier.where.delete("counts")
    again = recertify(run.where, Place.of(f"{run.where}-again"), alpha=0.2)
    assert again["acr"] > before["acr"] and again["bound"] == "reused-counts"
    with pytest.raises(UserError, match="reuse has a bound of its own"):
        recertify(run.where, Place.of(f"{run.where}-t"), bound="tcertify")


def test_the_earlier_network_must_count_as_it_did(reusing, earlier):
    run = reusing()
    stored = open_earlier(str(earlier.where)).stored_blocks(run.selected, PAIRS // 100)
    assert len(stored) == 12 * (1 + PAIRS // 100)
    check_repeated(pa.concat_tables(run.tables(run.items())), stored, earlier.where)
    run.earlier_model = near(earlier.model, by=0.3)
    with pytest.raises(UserError, match="counts otherwise here, in .* of image"):
        check_repeated(pa.concat_tables(run.tables(run.items())), stored, earlier.where)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 1}, "seed is 1 now but was 0"),
        ({"sigma": 0.2}, "sigma is 0.2 now but was 0.1"),
        ({"limit": 11}, "limit is 11 now but was 12"),
        ({"classes": ("a", "b", "c", "d")}, "classes is"),
        ({"n": 5000}, "at most the 4000 draws"),
        ({"n": 250}, "multiple of its block size 100"),
        ({"sampling": "adaptive"}, "reuse has a bound of its own"),
        ({"bound": "hoeffding"}, "reuse has a bound of its own"),
    ],
)
def test_what_cannot_be_paired_is_refused(small_run, earlier, changes, words):
    found = open_earlier(str(earlier.where))
    with pytest.raises(UserError, match=words):
        found.check(small_run("x", **{"reuse": "c", "n": PAIRS, **DRAWS, **changes}).config)


def test_settings_that_are_not_given_are_those_of_the_counts(earlier):
    found = open_earlier(str(earlier.where)).settings({"n": 200, "dataset": "mnist"})
    assert found["n"] == 200 and found["dataset"] == "mnist"
    assert (found["sigma"], found["start"], found["alpha"]) == (0.1, 5, 0.05)
    assert open_earlier(str(earlier.where)).settings({})["n"] == N // 10


def test_soft_counts_are_refused(small_run):
    run = small_run(bound="hoeffding")
    run.count()
    done(run)
    with pytest.raises(UserError, match="made with soft bounds"):
        open_earlier(str(run.where))


def test_counts_of_a_cert_that_was_made_from_soft_ones_are_used(small_run):
    """Beside soft sums stand classes that no draw fell on."""
    run = small_run("soft", bound="hoeffding", n=800, **DRAWS)
    run.count()
    done(run)
    hard = Place.of(f"{run.where}-hard")
    recertify(run.where, hard, bound="clopper-pearson")
    found = open_earlier(str(hard))
    more = {"reuse": str(hard), "reused_run": run_id(found.claimed.config)}
    new = small_run("new", n=PAIRS, **DRAWS, **more)
    new.earlier_model, new.model = run.model, near(run.model)
    new.store.append(found.reused_rows(new.selected, PAIRS // 100), PART)
    stored = found.stored_blocks(new.selected, PAIRS // 100)
    check_repeated(new.count(), stored, hard)
    done(new)
    assert verify(new.where).is_equal and verify(new.where).not_compared == ""


def test_another_network_than_the_counted_one_is_refused(earlier, tmp_path):
    torch.save(earlier.model.state_dict(), tmp_path / "other.pt")
    config = earlier.config.model_copy(update={"reuse_model": str(tmp_path / "other.pt")})
    found = EarlierCertification(earlier.claimed)
    with pytest.raises(UserError, match="holds other weights than"):
        found.with_source(config, None)
    of_a_file = earlier.config.model_copy(update={"model": "danger:factory"})
    with pytest.raises(UserError, match="which only your own word imports"):
        EarlierCertification(replace(earlier.claimed, config=of_a_file)).with_source(config, None)


def test_counts_of_a_factorys_network_are_used_with_the_normalisation_that_was_stated(
    earlier, tmp_path, monkeypatch
):
    (tmp_path / "reused_networks.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.save(torch.nn.Linear(64, 4).state_dict(), tmp_path / "w.pt")
    digest = hashlib.sha256((tmp_path / "w.pt").read_bytes()).hexdigest()
    split = SimpleNamespace(image_shape=(1, 8, 8), num_classes=4)
    for stated in ("0.5/0.25", "none"):
        own = {
            "model": "reused_networks:Net", "source": str(tmp_path / "w.pt"),
            "model_digest": digest, "normalisation": stated,
        }  # fmt: skip
        config = earlier.config.model_copy(update=own)
        claimed = replace(earlier.claimed, config=config)
        found = EarlierCertification(claimed).with_source(config, split)
        assert found.source.normalisation.text == stated


def test_counts_that_are_used_again_are_those_of_their_own_cert(reusing, earlier):
    """Larger ones, with certificates that follow from them, are found while that CERT is there."""
    run = reusing()
    run.count()
    done(run)
    assert verify(run.where).is_equal and verify(run.where).not_compared == ""
    part = run.store.read(PART).to_pylist()
    part[3]["counts"][0] += 100
    part[3]["draws"] += 100
    run.store.append(pa.Table.from_pylist(part, schema=PAIRED_COUNTS), PART)
    done(run)
    (line,) = map(str, verify(run.where).differences)
    assert line.startswith("counts: what was counted before in reused block 0 of image 26 is [")
    earlier.where.delete("certificates.parquet")
    found = verify(run.where)
    assert found.is_equal and "reused counts were not compared: " in str(found)


def test_pairs_that_cannot_be_are_damage(reusing):
    run = reusing()
    run.count()
    done(run)

    def forged(rows):
        for row in rows:
            row["kept"] = [each + 1 for each in row["before"]]
        return rows

    for name in run.store.names():
        run.store.append(
            pa.Table.from_pylist(forged(run.store.read(name).to_pylist()), PAIRED_COUNTS), name
        )
    lines = [str(difference) for difference in verify(run.where).differences]
    assert "the pairs are no draws of both networks" in lines[0]
