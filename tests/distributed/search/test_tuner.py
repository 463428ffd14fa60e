import os
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file
from shared_files import SHARED

from rsray.config import TuneConfig
from rsray.distributed.search import search
from rsray.distributed.search.space import parse_grid, parse_space
from rsray.distributed.search.tuner import tune
from rsray.errors import UserError
from rsray.presets import train_config
from rsray.progress import Watch
from rsray.storage import Place

IMAGENET = SHARED / "data" / "imagenet" / "val"


def small(trials=3, search=None, tuning=None, **flat):
    base = train_config({"dataset": "digits", "limit": 200, "epochs": 2, "num_draws": 4, **flat})
    values = {
        "train": base, "search": parse_space(search or [], base.objective), "trials": trials,
        "num_draws": 16, "report_every": 1, "n": 1000, "skip": 50, "concurrent": 1, "compare": False,
    }  # fmt: skip
    return TuneConfig.make({**values, **(tuning or {})})


def run_rsray(*arguments):
    script = "import sys; from rsray_cli.main import run; run()"
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def trials_of(out):
    return pq.read_table(out / "trials.parquet").to_pylist()


def without_times(rows):
    return [{key: row[key] for key in row if key != "seconds"} for row in rows]


@pytest.mark.slow
def test_a_search_ends_in_a_winner_certified_beside_the_published_setting(ray_session, tmp_path):
    phases, out = [], tmp_path / "tune"
    # Starts from a rate at which nothing is learned, so that another setting must win.
    config = small(
        4, ["lr=choice(0.0001,0.1)"], {"compare": True},
        objective="gaussian", lr=0.0001, epochs=10, limit=None, num_draws=1,
    )  # fmt: skip
    summary = tune(config, Place.of(out), watch=Watch(phase=phases.append))
    assert phases == ["search", "train", "certify", "train (start)", "certify (start)"]
    trials = trials_of(out)
    assert len(trials) == 4 and trials[0]["lr"] == 0.0001  # what the search starts from
    assert {trial["state"] for trial in trials} <= {"complete", "pruned"}
    best = yaml.safe_load((out / "best.yaml").read_text())
    complete = [trial for trial in trials if trial["state"] == "complete"]
    assert best["lr"] == max(complete, key=lambda trial: trial["projected_acr"])["lr"] == 0.1
    assert "validation" not in best or best["validation"] == 0  # trained on all training images
    for run, lr in (("best", 0.1), ("paper", 0.0001)):
        assert yaml.safe_load((out / run / "run.yaml").read_text())["lr"] == lr
        assert (out / run / "certificates" / "certificates.parquet").stat().st_size > 0
    images = [
        pq.read_table(out / run / "certificates" / "certificates.parquet")["index"].to_pylist()
        for run in ("best", "paper")
    ]
    assert images[0] == images[1] and len(images[0]) == summary.best["num_images"] == 9
    assert summary.best["acr"] != summary.paper["acr"]
    assert not summary.won and not summary.is_published  # digits are in no paper
    html = (out / "tune.html").read_text()
    assert f"{summary.best['acr']:.3f}" in html and f"{summary.paper['acr']:.3f}" in html
    for name in ("plots/history.png", "plots/slices.svg", "study.journal"):
        assert (out / name).stat().st_size > 0
    assert not (out / ".ray").exists()


@pytest.mark.slow
def test_a_search_that_ended_is_not_repeated_and_another_is_refused(ray_session, tmp_path):
    out = tmp_path / "tune"
    quick = {"final": False}
    tune(small(trials=2, tuning=quick), Place.of(out))
    assert not (out / "best").exists()
    before = trials_of(out)
    tune(small(trials=3, tuning=quick), Place.of(out))
    assert [row["number"] for row in trials_of(out)] == [0, 1, 2]
    assert trials_of(out)[:2] == before, "it went on where it had ended"
    tune(small(trials=2, tuning=quick), Place.of(out))
    assert yaml.safe_load((out / "tune.yaml").read_text())["trials"] == 2
    before = trials_of(out)
    again = small(trials=2)
    elsewhere = again.train.model_copy(update={"data_root": "/somewhere"})
    summary = tune(again.model_copy(update={"train": elsewhere}), Place.of(out))
    assert trials_of(out) == before and summary.best["num_images"] == 9
    with pytest.raises(UserError, match="trials is 5 now but was 2.*has trained its winner"):
        tune(small(trials=5), Place.of(out))
    with pytest.raises(UserError, match=r"sigma is 0\.5 now but was 0\.25"):
        tune(small(trials=2, sigma=0.5), Place.of(out))


@pytest.mark.slow
def test_a_trial_that_diverges_or_raises_fails_and_the_search_goes_on(ray_session, tmp_path):
    out = tmp_path / "tune"
    search = ["lr=choice(0.01,1e30)", "model=choice(lenet,fails_in_training:build)"]
    base = {"objective": "gaussian"}
    module = tmp_path / "fails_in_training.py"
    # It can be built here, where the search looks at it before it starts, and nowhere else.
    module.write_text(
        "import os\nfrom rsray import models\ndef build(**shapes):\n"
        f"    if os.getpid() != {os.getpid()}:\n        raise RuntimeError('no luck')\n"
        "    return models.build('lenet', **shapes)\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        grid = parse_grid([text.replace("choice(", "").rstrip(")") for text in search], "gaussian")
        config = small(4, search, {"sampler": "grid", "final": False}, **base)
        tune(config.model_copy(update={"search": grid}), Place.of(out))
    finally:
        sys.path.remove(str(tmp_path))
    rows = trials_of(out)
    assert [row["state"] for row in rows] == ["complete", "fail", "fail", "fail"]
    assert rows[0]["error"] is None and "no luck" in rows[1]["error"]
    assert "the loss became" in rows[2]["error"]
    assert yaml.safe_load((out / "best.yaml").read_text())["lr"] == 0.01


@pytest.mark.long
def test_two_searches_with_one_seed_are_equal(ray_session, tmp_path):
    config = small(
        6, ["lr=log(0.01,0.3)"], {"final": False},
        objective="gaussian", epochs=6, limit=None, num_draws=1,
    )  # fmt: skip
    for name in ("a", "b"):
        tune(config, Place.of(tmp_path / name))
    rows = without_times(trials_of(tmp_path / "a"))
    assert rows == without_times(trials_of(tmp_path / "b"))
    assert len({row["lr"] for row in rows}) == 6 == len({row["projected_acr"] for row in rows})


def start_command(out, *options):
    script = "import sys; from rsray_cli.main import run; run()"
    arguments = ["tune", "--dataset", "digits", "--objective", "gaussian", "--set", "num_draws=1"]
    arguments += ["--search", "lr=log(0.01,0.3)", "--epochs", "4", "--trials", "4"]
    arguments += ["--concurrent", "1", "--no-final", "--out", str(out)]
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments, *options],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True, text=True,
    )  # fmt: skip


def wait_for(out, word, process, timeout=400.0):
    journal, end = out / "study.journal", time.monotonic() + timeout
    while time.monotonic() < end and process.poll() is None:
        if journal.exists() and word(journal.read_text()):
            return
        time.sleep(0.05)
    process.kill()
    pytest.fail(f"it did not come so far: {process.stderr.read()}")


@pytest.mark.long
def test_a_search_killed_twice_ends_as_the_one_that_was_not(tmp_path):
    whole, out = start_command(tmp_path / "whole"), tmp_path / "killed"
    _, errors = whole.communicate(timeout=600)
    assert whole.returncode == 0, errors

    def looks(text):
        return text.count('"intermediate_value"')

    first = start_command(out)
    wait_for(out, lambda text: looks(text) >= 1, first)
    os.killpg(first.pid, signal.SIGKILL)  # in its first trial
    first.wait()
    second = start_command(out)
    wait_for(out, lambda text: looks(text) >= 5, second)
    second.kill()  # in its second trial, the driver alone: its Ray must go by itself
    second.wait()
    assert not (out / "trials.parquet").exists()
    journal = (out / "study.journal").read_text()
    third = start_command(out)
    _, errors = third.communicate(timeout=600)
    assert third.returncode == 0, errors
    assert (out / "study.journal").read_text().startswith(journal[: journal.rfind("\n") + 1])
    rows = without_times(trials_of(out))
    assert len(rows) == 4
    assert rows == without_times(trials_of(tmp_path / "whole"))


@pytest.mark.long
def test_trials_of_several_workers_nest_ray_train(tmp_path):
    out = tmp_path / "two"
    # A command of its own: where Ray has no dashboard, such groups keep their cores for good.
    process = start_command(out, "--workers", "2", "--trials", "1", "--epochs", "2")
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    (row,) = trials_of(out)
    assert (row["state"], row["epoch"], row["error"]) == ("complete", 2, None)
    assert 0 < row["projected_acr"] <= 1 and 0 < row["clean_accuracy"] <= 1
    assert not (out / ".ray").exists()
    assert yaml.safe_load((out / "tune.yaml").read_text())["workers"] == 2
    assert yaml.safe_load((out / "best.yaml").read_text())["workers"] == 2


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 2])
def test_best_yaml_retrains_the_winner_exactly(tmp_path, workers):
    out, again = tmp_path / "tune", tmp_path / "again"
    found = run_rsray(
        "tune", "--dataset", "digits", "--objective", "gaussian", "--limit", 200, "--epochs", 4,
        "--search", "lr=log(0.01,0.3)", "--trials", 3 - workers, "--workers", workers, "--n", 1000,
        "--skip", 100, "--out", out,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    best = yaml.safe_load((out / "best.yaml").read_text())
    assert best["workers"] == workers and best["precision"] in ("fp32", "bf16")
    found = run_rsray("train", "--config", out / "best.yaml", "--out", again)
    assert found.returncode == 0, found.stderr
    weights = [load_file(run / "model.safetensors") for run in (out / "best", again)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    other = train_config({"dataset": "digits"}).model_dump(mode="json")
    assert {key: best[key] for key in other} == best  # a whole configuration, and nothing else


@pytest.mark.slow
def test_tasks_read_the_images_of_trials_that_do_not_keep_them(ray_session, tmp_path, monkeypatch):
    """As a thread of the trial would, with trials that are stopped half-way among them."""
    config = small(
        4, ["lr=choice(0.0001,0.05)"], {"reduction": 2},
        objective="gaussian", epochs=6, num_draws=1, limit=None, augmentation="random-resized-crop",
    )  # fmt: skip
    plans, plan = [], search.plan_trials

    def search_with(kind):
        tune(config.model_copy(update={"final": False}), Place.of(tmp_path / kind))
        return without_times(trials_of(tmp_path / kind))

    def watched(*arguments):
        plans.append(plan(*arguments))
        return plans[-1]._replace(reading_cpus=0.0) if len(plans) > 1 else plans[-1]

    monkeypatch.setattr(search, "plan_trials", watched)
    # Digits are no full-size pictures to cut from: what is read by whom is the same.
    monkeypatch.setattr("rsray.distributed.search.resolved_search.check_fit", lambda *given: None)
    by_tasks, by_thread = search_with("tasks"), search_with("thread")
    assert plans[0].reading_cpus == 1
    assert {row["state"] for row in by_tasks} == {"complete", "pruned"}
    assert by_tasks == by_thread


@pytest.mark.long
def test_imagenet_end_to_end_with_a_tiny_budget(ray_session, tmp_path):
    if not IMAGENET.is_dir():
        pytest.skip(f"no sample of ImageNet at {IMAGENET}")
    # The sample has one picture a class: each is trained on four times, and certified.
    for place, source in enumerate(sorted(IMAGENET.iterdir())[:10]):
        for split, copies in (("train", 4), ("val", 1)):
            folder = tmp_path / "data" / "imagenet" / split / source.name
            folder.mkdir(parents=True)
            for copy in range(copies):
                (folder / f"{place}_{copy}.JPEG").write_bytes(next(source.iterdir()).read_bytes())
    config = small(
        2, dataset="imagenet", data_root=str(tmp_path / "data"), image_size=32, model="resnet20",
        limit=40, batch_size=8, epochs=1, num_draws=2,
        tuning={"validation": 0.25, "n": 200, "skip": 5},
    )  # fmt: skip
    summary = tune(config, Place.of(tmp_path / "tune"))
    rows = trials_of(tmp_path / "tune")
    assert [row["state"] for row in rows] == ["complete", "complete"]
    assert rows[0]["source"] == "paper" and rows[0]["trade_off"] == 6.0  # MACER table 2
    assert summary.best["num_images"] == 2
