"""A CERT folder from claim to certificates, with a run counted in this process."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats

from rsray.certification.counts.certificate_columns import IncompleteError
from rsray.certification.engine.evaluation import Evaluation
from rsray.certification.folder import claim, finish, recorded_evaluation, run_id
from rsray.certification.recertify import recertify
from rsray.config import CertifyConfig
from rsray.errors import UserError
from rsray.results.certificates import read_certificates
from rsray.storage import Place
from rsray.storage.yaml_files import from_yaml


def certificates(run):
    return read_certificates(f"{run.where}/certificates.parquet")


def by_hand(run):
    """(prediction, radius, correct) of each image from one call of the engine per image."""
    sampler, sigma, alpha, n = run.sampler(), run.config.sigma, run.config.alpha, run.config.n
    answers = []
    for image, index, label in zip(
        run.images, run.selected.indices.tolist(), run.selected.labels, strict=True
    ):
        top = int(sampler.counts(image, index, "selection", [(0, run.config.n0)])[0].argmax())
        blocks = [(0, 40), (1, 40), (2, 40), (3, 10)]
        hits = int(sampler.counts(image, index, "estimation", blocks)[:, top].sum())
        p = stats.beta.ppf(alpha, hits, n - hits + 1) if hits else 0.0
        prediction = top if p > 0.5 else -1
        answers.append(
            (prediction, sigma * stats.norm.ppf(p) if p > 0.5 else 0.0, prediction == label)
        )
    return [list(column) for column in zip(*answers, strict=True)]


def test_from_claim_to_certificates(small_run):
    run = small_run()
    run.count()
    summary = finish(run.claimed, run.gathered(), seconds=2.0, failed={})
    prediction, radius, correct = by_hand(run)
    table = certificates(run)
    assert table.index.tolist() == run.selected.indices.tolist()
    assert table.label.tolist() == run.selected.labels.tolist()
    assert table.prediction.tolist() == prediction
    np.testing.assert_allclose(table.radius, radius, rtol=1e-9)
    assert table.correct.tolist() == correct and 0 < sum(correct) < 12
    assert set(table.n.tolist()) == {130} and set(table.n0.tolist()) == {10}
    acr = sum(r for r, c in zip(radius, correct, strict=True) if c) / 12
    assert summary["acr"] == pytest.approx(acr, rel=1e-9) and acr > 0
    assert summary["draws"] == 12 * 140 and summary["draws_per_second"] == 12 * 70
    assert summary["num_images"] == 12 and summary["abstained"] == prediction.count(-1)
    assert summary["indices"] == {"start": 5, "skip": 7, "limit": 12}
    assert summary["failed"] == {}
    assert json.loads((run.where.local_path / "summary.json").read_text()) == summary


def test_metadata_names_all_that_the_certificates_depend_on(small_run):
    run = small_run()
    run.count()
    summary = finish(run.claimed, run.gathered(), seconds=2.0, failed={})
    metadata = certificates(run).metadata
    wanted = {
        "sigma": 0.3, "alpha": 0.05, "bound": "clopper-pearson", "sampling": "fixed", "seed": 0, "n": 130,
        "dataset": "digits", "split": "test", "precision": "fp32", "device": "cpu", "batch_size": 32,
        "device_name": "a chip", "memory_format": "channels_last", "model_digest": "d1", "n0": 10,
    }  # fmt: skip
    for record in (metadata, summary):
        assert {key: record[key] for key in wanted} == wanted
        assert "torch" in record["versions"]


def test_skip_gives_the_same_acr_and_curve_for_fewer_draws(small_run):
    summaries = {}
    for sampling in ("fixed", "skip"):
        run = small_run(sampling, sampling=sampling)
        run.count()
        summaries[sampling] = finish(run.claimed, run.gathered(), seconds=1.0, failed={})
    fixed, skip = summaries["fixed"], summaries["skip"]
    assert skip["acr"] == fixed["acr"] > 0
    assert skip["certified_accuracy"] == fixed["certified_accuracy"]
    skipped = certificates(run)
    missed = skipped.skipped
    assert 0 < missed.sum() < 12
    assert skip["draws"] == fixed["draws"] - 130 * missed.sum() and skip["skipped"] == missed.sum()
    assert not skipped.n[missed].any() and not skipped.radius[missed].any()
    assert set(skipped.prediction[missed].tolist()) == {-1}


@pytest.mark.parametrize("sampling", ["fixed", "skip"])
def test_the_split_into_items_and_parts_does_not_matter(small_run, sampling):
    tables = []
    for name, blocks_per_item, per_part in (("a", 1, 3), ("b", 9, 1000)):
        run = small_run(f"{name}-{sampling}", sampling=sampling)
        items = run.items(blocks_per_item)
        run.count(items[::-1] if name == "a" else items, per_part)
        finish(run.claimed, run.gathered(), seconds=1.0, failed={})
        tables.append(pq.read_table(run.where.local_path / "certificates.parquet"))
    assert tables[0].equals(tables[1])


def test_finishing_twice_writes_the_same_bytes(small_run):
    run = small_run()
    run.count()
    contents = []
    for _ in range(2):
        finish(run.claimed, run.gathered(), seconds=1.0, failed={})
        contents.append(run.where.read("certificates.parquet") + run.where.read("summary.json"))
    assert contents[0] == contents[1]


def test_a_run_that_is_not_complete_does_not_finish(small_run):
    run = small_run()
    run.count(run.items()[:-1])
    with pytest.raises(IncompleteError, match="draws of 1 images are missing: 82"):
        finish(run.claimed, run.gathered(), seconds=1.0, failed={})
    assert not run.where.exists("certificates.parquet") and not run.where.exists("summary.json")
    run.count()  # what is owed: the last item
    assert finish(run.claimed, run.gathered(), seconds=1.0, failed={})["num_images"] == 12


def test_failed_images_get_no_certificate_and_are_named(small_run):
    run = small_run()
    run.count([item for item in run.items() if item.index not in (12, 40)])
    failed = {12: "OSError: damaged", 40: "BadLogitsError: NaN"}
    summary = finish(run.claimed, run.gathered(), seconds=1.0, failed=failed)
    assert summary["failed"] == {"12": "OSError: damaged", "40": "BadLogitsError: NaN"}
    assert summary["num_images"] == 10
    assert certificates(run).index.tolist() == [i for i in run.selected.indices if i not in failed]
    assert summary["draws"] == 10 * 140


def test_failed_images_count_0_and_are_named_beside_the_certificates(small_run):
    run = small_run()
    run.count([item for item in run.items() if item.index not in (12, 40)])
    failed = {12: "OSError: damaged", 40: "BadLogitsError: NaN"}
    summary = finish(run.claimed, run.gathered(), seconds=1.0, failed=failed)
    table = certificates(run)
    assert table.failed == failed and table.selected.tolist() == run.selected.indices.tolist()
    labels = dict(zip(run.selected.indices.tolist(), run.selected.labels.tolist(), strict=True))
    assert table.failed_labels == {12: labels[12], 40: labels[40]}
    gain = (table.radius * table.correct).sum()
    assert summary["num_selected"] == 12 and gain > 0
    assert summary["acr"] == table.acr == pytest.approx(gain / 12, rel=1e-12)
    assert summary["clean_accuracy"] == summary["certified_accuracy"]["0.00"]
    assert summary["clean_accuracy"] == table.correct.sum() / 12
    again = recertify(run.where, run.where / "again", alpha=0.01)
    assert again["failed"] == summary["failed"] and again["num_selected"] == 12
    made = read_certificates(run.where / "again" / "certificates.parquet")
    assert (made.failed, made.failed_labels) == (failed, table.failed_labels)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_when_every_image_fails_the_reasons_are_reported(small_run):
    run = small_run()
    failed = {int(index): "OSError: damaged" for index in run.selected.indices}
    try:
        text = json.dumps(finish(run.claimed, run.gathered(), seconds=1.0, failed=failed))
    except UserError as error:
        text = str(error)
    assert "OSError: damaged" in text


def test_claim_writes_what_was_asked_and_chosen(small_run):
    run = small_run()
    record = from_yaml(run.where.read("certify.yaml"), "certify.yaml")
    assert record["sigma"] == 0.3 and record["n"] == 130 and record["block_size"] == 40
    assert Evaluation(**record["evaluation"]) == run.evaluation
    assert record["versions"] == run.claimed.versions and "torch" in record["versions"]
    assert run.claimed.spent_seconds == 0 and run.claimed.run_id == run_id(run.config)
    assert CertifyConfig.of_record(record) == run.config


def test_a_new_folder_has_no_recorded_evaluation(tmp_path, small_run):
    config = small_run("elsewhere").config
    assert recorded_evaluation(Place.of(tmp_path / "new"), config) is None
    empty = Place.of(tmp_path / "empty").make()
    assert recorded_evaluation(empty, config) is None
    with empty.locked():  # its lock file is no content
        assert recorded_evaluation(empty, config) is None


def test_a_run_continues_with_its_evaluation_time_and_versions(small_run, caplog):
    run = small_run()
    run.where.write("progress.json", b'{"seconds": 12.5}')
    text = run.where.read("certify.yaml").replace(b"torch: ", b"torch: before-")
    run.where.write("certify.yaml", text)
    evaluation = recorded_evaluation(run.where, run.config)
    assert evaluation == run.evaluation
    again = claim(run.where, run.config, evaluation)
    assert again.spent_seconds == 12.5 and again.run_id == run.claimed.run_id
    assert again.versions["torch"].startswith("before-")  # those that the counts were made with
    assert "was begun with torch before-" in caplog.text
    assert run.where.read("certify.yaml") == text  # written once


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": 0.5}, "sigma is 0.5 now but was 0.3"),
        ({"n": 200}, "n is 200 now but was 130"),
        ({"seed": 3}, "seed is 3 now but was 0"),
        ({"model_digest": "d2"}, "model_digest is 'd2' now but was 'd1'"),
        ({"limit": None}, "limit is None now but was 12"),
        (
            {"sampling": "skip", "alpha": 0.01},
            "alpha is 0.01 now but was 0.05; sampling is 'skip' now",
        ),
    ],
)
def test_another_run_is_refused_by_its_difference(small_run, change, message):
    run = small_run()
    other = run.config.model_copy(update=change)
    with pytest.raises(UserError, match=message) as caught:
        recorded_evaluation(run.where, other)
    assert "use another --out" in str(caught.value)
    assert run_id(other) != run.claimed.run_id


@pytest.mark.parametrize(
    "now",
    [
        {"images": 91, "names": "b"},
        {"images": 90, "names": "a", "labels": "other"},
        {"images": 90, "names": "a", "labels": "its own", "contents": "other"},
    ],
)
def test_a_run_does_not_go_on_with_other_images(small_run, now):
    began = {"images": 90, "labels": "its own", "names": "a", "contents": "c"}
    run = small_run(images_fingerprint=began)
    with pytest.raises(UserError, match="began with other images .90 then"):
        recorded_evaluation(run.where, run.config.model_copy(update={"images_fingerprint": now}))
    assert recorded_evaluation(run.where, run.config) == run.evaluation
    # Of a run that an earlier version began nothing is known.
    earlier = small_run("earlier")
    again = earlier.config.model_copy(update={"images_fingerprint": now})
    assert recorded_evaluation(earlier.where, again) == earlier.evaluation


@pytest.mark.parametrize("change", [
    {"actors": 9}, {"gpus_per_actor": 0.5}, {"data_root": "/elsewhere"}, {"source": "moved/RUN"},
])  # fmt: skip
def test_where_a_run_runs_may_change(small_run, change):
    run = small_run()
    other = run.config.model_copy(update=change)
    assert recorded_evaluation(run.where, other) == run.evaluation
    assert run_id(other) == run.claimed.run_id


def test_a_run_goes_on_though_what_it_asks_for_cannot_be_had(small_run, tmp_path):
    asked = small_run().config.model_copy(update={"precision": "bf16", "compile": "on"})
    evaluation = Evaluation("cpu", "fp32", "contiguous", 8)
    where = Place.of(tmp_path / "fell-back")
    begun = claim(where, asked, evaluation)
    assert (
        begun.config.precision == from_yaml(where.read("certify.yaml"), "")["precision"] == "fp32"
    )
    assert recorded_evaluation(where, asked) == evaluation
    for precision in (None, "fp32"):
        again = asked.model_copy(update={"precision": precision})
        assert recorded_evaluation(where, again) == evaluation
        assert claim(where, again, evaluation).run_id == begun.run_id
    with pytest.raises(UserError, match="precision is 'fp16' now but was 'fp32'"):
        recorded_evaluation(where, asked.model_copy(update={"precision": "fp16"}))
    other = Place.of(tmp_path / "as-it-is")
    claim(other, asked.model_copy(update={"precision": "fp32", "compile": "auto"}), evaluation)
    for change, message in (
        ({"compile": "on", "precision": None}, "compile 'on' needs another --out"),
        ({"compile": "auto"}, "precision is 'bf16' now but was 'fp32'"),
    ):
        with pytest.raises(UserError, match=message):
            recorded_evaluation(other, asked.model_copy(update=change))


def test_counts_of_another_run_in_the_folder_are_refused(small_run):
    ours, theirs = small_run("ours"), small_run("theirs", seed=1)
    ours.count()
    theirs.count()
    name = theirs.store.names()[0]
    ours.store.folder.write(name, theirs.store.folder.read(name))
    with pytest.raises(UserError, match="holds counts of another run"):
        finish(ours.claimed, ours.gathered(), seconds=1.0, failed={})


def test_folders_and_files_that_are_no_certification(tmp_path, small_run):
    config = small_run("elsewhere").config
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("...")
    with pytest.raises(UserError, match="thesis is not empty and is no certification"):
        recorded_evaluation(Place.of(tmp_path / "thesis"), config)
    with pytest.raises(UserError, match="chapter.tex is a file: --out needs a folder"):
        recorded_evaluation(Place.of(tmp_path / "thesis" / "chapter.tex"), config)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "certify.yaml").write_text("{{{")
    with pytest.raises(UserError, match="certify.yaml is not valid YAML"):
        recorded_evaluation(Place.of(tmp_path / "odd"), config)
