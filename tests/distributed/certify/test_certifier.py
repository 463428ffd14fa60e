import importlib
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from saved_weights import save_weights

from rsray.certification.counting import certification_run
from rsray.certification.counting.answers import Answer, read_answers
from rsray.certification.counts.store import CountStore
from rsray.certification.networks.opening import open_source
from rsray.certification.request import CertificationRequest, selected_images
from rsray.config import CertifyConfig
from rsray.core.hardware import default_device, resolve_precision
from rsray.data import open_split
from rsray.distributed.certify import ray_fleet
from rsray.distributed.certify.certifier import certify
from rsray.errors import UserError
from rsray.storage import Place
from rsray.storage.yaml_files import from_yaml


@pytest.fixture
def job(ray_session, digits_run, tmp_path):
    source = open_source(str(digits_run))
    split = open_split("digits", "test")

    def run(name, on_progress=lambda snapshot: None, source=source, **settings):
        values = {
            "source": source.where, "model_digest": source.digest, "dataset": "digits",
            "model": source.model, "num_classes": 10, "image_shape": split.image_shape, "sigma": 0.25,
            "n": 2000, "skip": 30,
            "block_size": 500, "precision": "fp32", "actors": 2,
        }  # fmt: skip
        config = CertifyConfig.make({**values, **settings})
        folder = Place.of(tmp_path / name)
        request = CertificationRequest(config, source, split, selected_images(config, split))
        return certify(request, folder, address="local", on_progress=on_progress)

    return run


def rows(folder):
    return pq.read_table(folder / "certificates.parquet").to_pylist()


@pytest.mark.slow
def test_result_does_not_depend_on_actors_or_split(job, tmp_path):
    one = job("one", actors=1)
    two = job("two", actors=2)
    assert rows(tmp_path / "one") == rows(tmp_path / "two")
    assert one["acr"] == two["acr"] > 0
    assert one["num_images"] == 15


@pytest.mark.slow
def test_precision_is_decided_where_actors_count_and_kept(job, tmp_path):
    first = job("run", n=500, skip=150, precision=None)
    recorded = from_yaml((tmp_path / "run" / "certify.yaml").read_bytes(), "certify.yaml")
    assert (
        recorded["precision"]
        == recorded["evaluation"]["precision"]
        == resolve_precision(None, default_device())
    )
    assert job("run", n=500, skip=150, precision=None)["acr"] == first["acr"]
    progress = json.loads((tmp_path / "run" / "progress.json").read_bytes())
    assert progress["acr"] == first["acr"] and progress["images_done"] == progress["images"]
    other = {"fp32": "bf16", "bf16": "fp32"}[recorded["precision"]]
    with pytest.raises(UserError, match=f"precision is '{other}' now but was"):
        job("run", n=500, skip=150, precision=other)


@pytest.mark.long
def test_an_interrupted_run_continues_where_it_stopped(job, tmp_path):
    job("whole", n=20_000)

    def stop_early(snapshot):
        if snapshot["draws"] > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job("cut", on_progress=stop_early, n=20_000)
    cut = tmp_path / "cut"
    stored = pq.read_table(cut / "counts").num_rows
    assert stored > 0 and not (cut / "certificates.parquet").exists()
    again = job("cut", n=20_000, actors=1)
    assert rows(cut) == rows(tmp_path / "whole")
    progress = json.loads((cut / "progress.json").read_text())
    assert 0 < progress["draws"] < again["draws"]  # only what was missing was drawn


@pytest.mark.long
def test_a_cut_off_counts_file_is_counted_again(job, tmp_path):
    job("whole")
    job("cut")
    cut = tmp_path / "cut"
    part = next((cut / "counts").iterdir())
    part.write_bytes(part.read_bytes()[:100])
    (cut / "certificates.parquet").unlink()
    job("cut")
    assert rows(cut) == rows(tmp_path / "whole")


@pytest.mark.long
def test_skip_gives_the_same_acr_and_curve_with_fewer_draws(job, tmp_path):
    fixed, skip = job("fixed", skip=5), job("skip", skip=5, sampling="skip")
    assert skip["acr"] == fixed["acr"]
    assert skip["certified_accuracy"] == fixed["certified_accuracy"]
    skipped = [row for row in rows(tmp_path / "skip") if row["skipped"]]
    assert skipped and all(row["n"] == 0 and row["radius"] == 0 for row in skipped)
    assert skip["draws"] < fixed["draws"]


@pytest.mark.long
def test_seed_decides_the_counts(job, tmp_path):
    job("a")
    job("b")
    job("c", seed=1)
    counts = {name: [row["count_a"] for row in rows(tmp_path / name)] for name in "abc"}
    assert counts["a"] == counts["b"] != counts["c"]


@pytest.fixture
def faulty(ray_session, tmp_path, monkeypatch):
    """Certify digits by a user's linear model whose forward pass may do `act` for its images."""

    def run(name, condition, act, skip):
        (tmp_path / f"{name}.py").write_text(
            "import os, pathlib, torch\n"
            f"been = pathlib.Path({str(tmp_path / 'been')!r})\n"
            "class Faulty(torch.nn.Linear):\n"
            "    def __init__(self, num_classes):\n"
            "        super().__init__(64, num_classes)\n"
            "    def forward(self, images):\n"
            f"        if {condition}:\n"
            f"            {act}\n"
            "        return super().forward(images.flatten(1))\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        module = importlib.import_module(name)
        save_weights(module.Faulty(10), tmp_path / "model.safetensors")
        source = open_source(str(tmp_path / "model.safetensors")).given(
            model=f"{name}:Faulty", dataset="digits", sigma=0.01
        )
        split = open_split("digits", "test")
        config = CertifyConfig.make(
            {
                "source": source.where, "model_digest": source.digest, "dataset": "digits",
                "model": source.model, "num_classes": 10, "sigma": 0.01, "n": 1000, "skip": skip,
                "image_shape": split.image_shape,
                "precision": "fp32", "compile": "off",
            }
        )  # fmt: skip
        chosen = selected_images(config, split)
        request = CertificationRequest(config, source, split, chosen)
        summary = certify(request, Place.of(tmp_path / "cert"), address="local")
        return summary, split, chosen

    return run


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("raise ValueError('this image is too bright')", "ValueError: this image is too bright"),
        pytest.param(
            "return super().forward(images.flatten(1)) * float('nan')", "NaN for image",
            marks=pytest.mark.slow,
        ),
        pytest.param("os._exit(1)", "the actor that made them died each time", marks=pytest.mark.long),
    ],
)  # fmt: skip
def test_an_image_that_fails_is_named_and_costs_no_other(faulty, fault, said):
    # Rows that the batch is padded with are another image's: the first ones never are.
    is_bright = "0.353 < float(images[:8].mean()) < 0.45"
    summary, split, chosen = faulty(f"fussy_{len(fault)}", is_bright, fault, skip=9)
    bright = np.flatnonzero(split.images(range(450)).mean(axis=(1, 2, 3)) / 255 > 0.353)
    expected = sorted(set(bright.tolist()) & set(chosen.indices.tolist()))
    assert 0 < len(expected) < 5
    assert sorted(int(index) for index in summary["failed"]) == expected
    assert said in summary["failed"][str(expected[0])]
    assert summary["num_images"] == len(chosen.indices) - len(expected)


def test_a_failure_after_which_nothing_is_owed_costs_no_certificate(job, monkeypatch):
    """Of an image in two tasks one failed, and the other's selection made its draws needless."""
    said = []

    def in_this_process(tasks, actor, job, fleet, patience):
        count = actor(job)
        for task in tasks:
            answer = count(task)
            yield answer
            if not said:
                (made,) = read_answers(answer)
                said.append(int(made.counts["index"][0].as_py()))
                failed = {said[0]: "a passing fault"}
                yield Answer(made.counts.slice(0, 0), made.device_name, failed).table()

    monkeypatch.setattr(ray_fleet, "stream", in_this_process)
    monkeypatch.setattr(ray_fleet, "make_lot", list)
    summary = job("run", n=500, actors=1)
    assert said and not summary["failed"] and summary["num_images"] == 15


def test_a_run_reads_its_counts_once_at_the_end(job, tmp_path, monkeypatch):
    """And one that goes on reads them once more as it begins, damaged parts too."""
    reads, read = Counter(), CountStore.read

    def counted(store, name):
        reads[name] += 1
        return read(store, name)

    def in_this_process(tasks, actor, settings, fleet, patience):
        count = actor(settings)
        for task in tasks:
            yield from (count(task.slice(row, 1)) for row in range(len(task)))

    monkeypatch.setattr(ray_fleet, "stream", in_this_process)
    monkeypatch.setattr(ray_fleet, "make_lot", list)
    monkeypatch.setattr(certification_run, "FLUSH_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(CountStore, "read", counted)
    summary = job("run", n=500, skip=150, actors=1)
    names = {part.name for part in (tmp_path / "run" / "counts").iterdir()}
    assert len(names) > 1 and reads == dict.fromkeys(names, 1)
    damaged = tmp_path / "run" / "counts" / min(names)
    damaged.write_bytes(damaged.read_bytes()[:-20])
    assert job("run", n=500, skip=150, actors=1)["acr"] == summary["acr"]
    kept = dict.fromkeys(names - {damaged.name}, 3)
    assert {name: times for name, times in reads.items() if name in kept} == kept


def test_a_chip_that_the_evaluation_was_not_chosen_on_is_named_once(job, monkeypatch, caplog):
    def in_this_process(tasks, actor, job, fleet, patience):
        count = actor(job)
        for task in tasks:
            (made,) = read_answers(count(task))
            for part in (made.counts.slice(0, 3), made.counts.slice(3)):
                yield Answer(part, "Abacus").table()

    monkeypatch.setattr(ray_fleet, "stream", in_this_process)
    monkeypatch.setattr(ray_fleet, "make_lot", list)
    summary = job("run", n=500, actors=1)
    assert summary["num_images"] == 15
    warnings = [record.getMessage() for record in caplog.records if "counts beside" in record.msg]
    assert len(warnings) == 1 and warnings[0].startswith(
        f"Abacus counts beside {summary['device_name']}"
    )


def test_counts_of_other_data_are_not_gone_on_with(job, monkeypatch):
    job("run", n=500, skip=150)
    found = selected_images
    shifted = lambda *given: replace(found(*given), labels=(found(*given).labels + 1) % 10)  # noqa: E731
    monkeypatch.setitem(globals(), "selected_images", shifted)
    with pytest.raises(UserError, match=r"with label \d, and the data set now says \d"):
        job("run", n=500, skip=150)


@pytest.mark.slow
def test_an_image_that_failed_once_is_tried_again(faulty, tmp_path):
    """A fault of the moment, or of one node, costs no certificate."""
    # Copies of one image: the looks that choose the evaluation take unlike images.
    is_first = (
        "len(images) > 1 and float(images.std(0).mean()) < 0.05"
        " and 0.1 < float(images.mean()) < 0.45 and not been.exists()"
    )
    summary, _, chosen = faulty(
        "moody", is_first, "been.touch(); raise OSError('stale file handle')", skip=90
    )
    assert (tmp_path / "been").exists()
    assert not summary["failed"] and summary["num_images"] == len(chosen.indices)
