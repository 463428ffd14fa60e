"""Stored blocks against the same blocks drawn again: equal, forged, by other networks and chips."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import hypergeom
from test_verify import MODES, finished, is_block, rewrite_table

from rsray.certification.checks import audit as checking
from rsray.certification.checks.audit import (
    FEWEST_BLOCKS,
    LEVEL,
    Audit,
    choose_blocks,
    compare,
    open_audited,
    plan_of_blocks,
    write_audit,
)
from rsray.certification.counts.check import CheckedCounts
from rsray.certification.counts.item import count_item
from rsray.certification.counts.store import Selected
from rsray.certification.engine.sampler import Sampler
from rsray.certification.folder import finished_record, reopen
from rsray.certification.recertify import recertify
from rsray.config import AuditConfig, CertifyConfig
from rsray.errors import UserError
from rsray.results.compare import load
from rsray.storage import Place

CHIP = "a chip"


def choice(run, **settings):
    counts = CheckedCounts(run.store, run.selected, run.claimed.plan)
    config = AuditConfig.make({"cert": str(run.where), "seed": 0, **settings})
    return choose_blocks(counts, [], config)


def audited(run, *, model=None, evaluation=None, chip=CHIP, **settings):
    """Draw blocks again as the fleet does, here."""
    chosen, plan = choice(run, **{"fraction": 1.0, **settings}), plan_of_blocks(run.claimed)
    evaluation = evaluation or run.evaluation
    sampler = Sampler(
        model or run.model, evaluation, image_shape=run.images.shape[1:], num_classes=4,
        sigma=run.config.sigma, seed=run.config.seed, noise=run.config.noise,
        inverse_temperature=run.config.inverse_temperature,
    )  # fmt: skip
    labels = dict(zip(run.selected.indices.tolist(), run.selected.labels.tolist(), strict=True))
    redrawn = []
    for item in chosen.items(labels)[::-1]:
        image = run.images[np.flatnonzero(run.selected.indices == item.index)[0]]
        redrawn.append((count_item(sampler, image, item, plan), chip))
    return compare(run.claimed, chosen, redrawn, evaluation)


@pytest.mark.parametrize("mode", MODES)
def test_counts_of_the_same_network_are_equal(small_run, mode):
    run = small_run(**MODES[mode])
    finished(run)
    found = audited(run)
    assert found.is_passed and found.differences == () and found.unlike == ()
    assert found.num_exact == found.num_audited == found.num_stored > 12 and found.p_value is None
    assert audited(run, fraction=None, blocks=5).num_exact == 5


def change_one_count(cert):
    """Move one draw of one block from a class to another; returns what the block is called."""
    for part in sorted((cert / "counts").iterdir()):
        rows = pq.read_table(part).to_pylist()
        for row in rows:
            if row["stage"] == "estimation" and len(row["classes"]) > 1:
                row["counts"][0], row["counts"][1] = row["counts"][0] + 1, row["counts"][1] - 1
                rewrite_table(part, lambda _, rows=rows: rows)
                return f"estimation block {row['block']} of image {row['index']}"
    raise AssertionError("no block has two classes")


@pytest.mark.parametrize("mode", ["fixed", "adaptive", "at-radius", "tcertify"])
def test_one_changed_count_fails_and_is_named(small_run, mode):
    run = small_run(**MODES[mode])
    changed = change_one_count(finished(run).local_path)
    found = audited(run)
    assert not found.is_passed and "audit FAILED" in found.lines()[0]
    (line,) = map(str, found.differences)
    assert line.startswith(f"counts: counts in {changed} is {{")


def test_changed_sums_of_probabilities_fail(small_run):
    run = small_run(**MODES["hoeffding"])
    cert = finished(run).local_path

    def with_larger_sums(rows):
        for row in filter(is_block, rows):
            row["sums"][0] += 2.0**-24
        return rows

    for part in (cert / "counts").iterdir():
        rewrite_table(part, with_larger_sums)
    (line,) = map(str, audited(run).differences)
    assert line.startswith("counts: sums in estimation block 1 of image 26 is {")


def test_soft_counts_that_a_hard_bound_uses_are_drawn_again_as_they_were(small_run, monkeypatch):
    run = small_run(bound="hoeffding", inverse_temperature=5.0)
    target = Place.of(f"{finished(run)}-hard")
    recertify(run.where, target, bound="clopper-pearson")
    record = finished_record(target)
    run.claimed = reopen(target, record)
    run.store = run.claimed.store
    found = audited(run)
    assert found.is_passed and found.num_exact == found.num_audited > 12
    source = SimpleNamespace(digest="d1")

    def opened(where, given, *, download):
        return SimpleNamespace(source=source, config=CertifyConfig.make(given))

    monkeypatch.setattr(checking, "open_source", lambda where: source)
    monkeypatch.setattr(checking, "open_certification", opened)
    asked = open_audited(target, record, "RUN", {}, download=False).config
    assert asked.soft and asked.inverse_temperature == 5.0, "a hard bound with it is refused"


def test_other_images_than_the_certified_ones_are_no_other_network(small_run, monkeypatch):
    """Pictures that were exchanged since would count otherwise, and the network be blamed for it."""
    was, now = ({"images": 83, "labels": "0a", "names": name} for name in ("1b", "2c"))
    run = small_run(images_fingerprint=was)
    record, source = finished_record(finished(run)), SimpleNamespace(digest="d1")
    monkeypatch.setattr(checking, "open_source", lambda where: source)
    for found in (was, now):
        config = run.config.model_copy(update={"images_fingerprint": found})
        asked = SimpleNamespace(source=source, config=config)
        monkeypatch.setattr(checking, "open_certification", lambda *_, asked=asked, **__: asked)
        if found is was:
            assert open_audited(run.where, record, "RUN", {}, download=False) is asked
    with pytest.raises(UserError, match="certifies other images than those that are there now"):
        open_audited(run.where, record, "RUN", {}, download=False)


@pytest.mark.parametrize("mode", ["fixed", "bernstein"])
@pytest.mark.parametrize("chip", [CHIP, "another chip"])
def test_another_network_fails(small_run, tiny, mode, chip):
    """On the chip of the run its counts are unequal, on another they are of another distribution."""
    run = small_run(**MODES[mode])
    finished(run)
    found = audited(run, model=tiny(seed=1), chip=chip)
    assert not found.is_passed
    assert len(found.differences) > 12 if chip == CHIP else found.p_value < LEVEL


def test_counts_of_an_actor_on_another_chip_are_tested(small_run):
    run = small_run()
    finished(run)
    found = audited(run, chip="another chip")
    assert found.is_passed and found.num_exact == 0 and found.p_value == 1.0
    assert found.unlike == ("another chip counts, a chip did",)
    assert "another chip counts" in "\n".join(found.lines())


def test_other_precision_is_tested_for_homogeneity(small_run):
    run = small_run()
    finished(run)
    found = audited(run, evaluation=replace(run.evaluation, precision="bf16"))
    assert found.is_passed and found.num_exact == 0 and found.p_value > LEVEL
    assert found.unlike == ("precision is bf16, was fp32",)


def test_another_torch_is_not_expected_to_repeat_bits(small_run):
    run = small_run()
    finished(run)
    run.claimed = replace(run.claimed, versions={"torch": "1.0"})
    assert audited(run).num_exact == 0
    run.claimed = replace(run.claimed, evaluation=replace(run.evaluation, device_name=""))
    assert "an unknown chip did" in audited(run).unlike[-1]


@pytest.mark.parametrize("mode", ["fixed", "hoeffding"])
def test_independent_noise_of_the_same_network_passes(small_run, mode):
    """As of a GPU, which draws other noise than a CPU: rejected as seldom as the level says."""
    rejected = 0
    for seed in range(4):
        run = small_run(f"cert-{seed}", seed=seed, **MODES[mode])
        finished(run)
        run.config = run.config.model_copy(update={"seed": seed + 100})
        rejected += not audited(run, chip="another chip").is_passed
    assert rejected == 0


def test_the_choice_is_random_unless_a_seed_is_given(small_run):
    run = small_run()
    finished(run)
    free = [choice(run, blocks=10, seed=None) for _ in range(3)]
    assert len({each.seed for each in free}) == 3
    assert len({tuple(each.keys) for each in free}) > 1
    assert not free[0].is_seed_given
    again = choice(run, blocks=10, seed=free[0].seed)
    assert again.is_seed_given and np.array_equal(again.keys, free[0].keys)
    assert len(set(again.keys.tolist())) == 10 and again.num_stored == 12 * 5


def test_how_many_blocks(small_run):
    run = small_run()
    finished(run)
    assert len(choice(run)) == FEWEST_BLOCKS == 20
    assert len(choice(run, fraction=0.5)) == 30 and len(choice(run, fraction=0.001)) == 1
    with pytest.raises(UserError, match="blocks is 61, but only 60 are stored"):
        choice(run, blocks=61)
    with pytest.raises(UserError, match="give blocks or fraction, not both"):
        choice(run, blocks=1, fraction=0.5)


def test_images_that_failed_are_not_drawn_again(small_run):
    run = small_run()
    finished(run, failed=(12,))
    counts = CheckedCounts(run.store, run.selected, run.claimed.plan)
    config = AuditConfig.make({"cert": "c", "fraction": 1.0})
    assert 12 not in choose_blocks(counts, [12], config).index_R


def test_every_block_is_as_likely_to_be_chosen(small_run):
    run = small_run()
    finished(run)
    times = np.zeros(12 * 5)
    counts = CheckedCounts(run.store, run.selected, run.claimed.plan)
    for seed in range(600):
        config = AuditConfig.make({"cert": "c", "blocks": 6, "seed": seed})
        chosen = choose_blocks(counts, [], config)
        position = Selected(run.selected.indices, run.selected.labels).positions(chosen.index_R)
        times[position * 5 + np.maximum(chosen.block_R - 1, 0)] += 1
    assert times.sum() == 3600 and abs(times - 60).max() < 5 * np.sqrt(54)


def test_what_a_forger_risks():
    found = Audit("c", 10, 1000, 0, False, (), 10)
    for changed in (1, 10, 100, 995):
        expected = hypergeom.pmf(0, 1000, changed, 10)
        assert found.escape(changed) == pytest.approx(expected, rel=1e-9)
    assert "1: 0.99, 10: 0.9, 100: 0.35, 1,000: 0" in found.lines()[-1]


def test_report_shows_an_audit_of_these_certificates_only(small_run, caplog):
    import rsray

    run = small_run()
    cert = finished(run).local_path
    assert "audit" not in rsray.report(cert).table.header
    write_audit(run.where, audited(run, fraction=None, blocks=6), "d1")
    record = json.loads((cert / "audit.json").read_text())
    assert record["passed"] and record["blocks"] == 6 and record["stored_blocks"] == 60
    shown, page = rsray.report(cert, html=cert / "page.html"), (cert / "page.html")
    assert shown.table.header[-1] == "audit"
    assert shown.table.cells()[0][-1] == "passed, 6 of 60 blocks" and "6 of 60" in page.read_text()
    failed = replace(audited(run, fraction=None, blocks=6), p_value=1e-9)
    write_audit(Place.of(cert), failed, "d1")
    assert rsray.report(cert).table.cells()[0][-1] == "FAILED, 6 of 60 blocks"
    table = cert / "certificates.parquet"
    rewrite_table(table, lambda rows: rows, {"precision": "bf16"})
    assert "audit" not in load(cert).metadata
    assert "is no audit of these certificates" in caplog.text


def test_a_cert_that_cannot_be_written_to_keeps_no_audit(small_run, monkeypatch, caplog):
    run = small_run()
    finished(run)

    def refused(place, name, data):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Place, "write", refused)
    write_audit(run.where, audited(run, fraction=None, blocks=1), "d1")
    assert "audit.json could not be written" in caplog.text
