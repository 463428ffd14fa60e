"""Searches on a real Tune: what it tells of stopped trials, and what it does with broken processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from optuna.trial import TrialState
from processes import titled

from rsray.config import TuneConfig
from rsray.distributed.search import search, tuner
from rsray.distributed.search.resolved_search import resolve_search
from rsray.distributed.search.search import StudySearcher, run_search
from rsray.distributed.search.space import parse_space
from rsray.distributed.search.study import open_study, trial_rows
from rsray.distributed.search.trial_resources import cluster_nodes, settle_on_cluster
from rsray.distributed.session import session
from rsray.errors import UserError
from rsray.presets import train_config
from rsray.progress import Watch
from rsray.storage import Place


def config_of(specs, trials, **flat):
    base = train_config(
        {"dataset": "digits", "objective": "gaussian", "num_draws": 1, "lr_drops": [], **flat}
    )
    values = {
        "train": base, "search": parse_space(specs, "gaussian"), "trials": trials, "num_draws": 16,
        "sampler": "random", "report_every": 1, "concurrent": 1,
    }  # fmt: skip
    return TuneConfig.make(values)


def search_here(config, out):
    """Run the trials on a Ray of this machine, and return the search."""
    with session("local"):
        found = settle_on_cluster(resolve_search(config), cluster_nodes(), None)
        run_search(found, open_study(out, found), out, Watch())
    return found


def rungs_of(asha):
    return {milestone: sorted(seen.values()) for milestone, seen in asha._brackets[0]._rungs}


@pytest.mark.slow
def test_a_resumed_search_knows_what_the_first_one_saw(tmp_path, monkeypatch):
    """The look that stops a trial is recorded once, and ASHA's rungs are the same again."""
    config = config_of(["lr=choice(0.00001,0.1)"], 8, lr=0.1, epochs=3)
    out, schedulers, schedule = Place.of(tmp_path), [], search._make_scheduler
    monkeypatch.setattr(
        search,
        "_make_scheduler",
        lambda *given: schedulers.append(schedule(*given)) or schedulers[0],
    )
    found = search_here(config, out)
    study = open_study(out, found)
    stopped = study.get_trials(states=(TrialState.PRUNED,))
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    assert stopped and complete and len(stopped) + len(complete) == 8
    for trial in (*stopped, *complete):
        last = trial.user_attrs["epoch"]
        assert sorted(trial.intermediate_values) == list(range(1, last + 1))
        assert trial.intermediate_values[last] == trial.user_attrs["projected_acr"]
    looks = sum(len(trial.intermediate_values) for trial in study.trials)
    assert (tmp_path / "study.journal").read_text().count('"intermediate_value"') == looks
    assert rungs_of(schedulers[0]) == rungs_of(schedule(found, StudySearcher(found, study)))


def test_a_search_without_a_winner_leaves_its_table_and_page(tmp_path, monkeypatch):
    def fail_all(found, study, out, watch):
        searcher = StudySearcher(found, study)
        for name, error in zip("abc", ("no memory", "it diverged", "it diverged"), strict=True):
            searcher.suggest(name)
            searcher.on_trial_complete(name, {"projected_acr": 0.0, "error": error})

    monkeypatch.setattr(tuner, "run_search", fail_all)
    config = config_of(["lr=log(0.01,0.1)"], 3, epochs=1)
    expected = "2 x it diverged; 1 x no memory.*trials.parquet.*another --out"
    with pytest.raises(UserError, match=expected):
        tuner.tune(config, Place.of(tmp_path))
    assert pq.read_table(tmp_path / "trials.parquet")["error"][0].as_py() == "no memory"
    assert "it diverged" in (tmp_path / "tune.html").read_text()
    assert (tmp_path / "plots" / "history.svg").is_file()


COMMAND = """
import sys; from rsray_cli.main import run; run()
"""


@pytest.mark.long
def test_a_nested_trial_whose_worker_is_killed_runs_again(tmp_path):
    out, mark = tmp_path / "tune", f"RSRAY_TEST={tmp_path}"
    words = ["tune", "--dataset", "digits", "--objective", "gaussian", "--set", "num_draws=1"]
    words += ["--search", "lr=log(0.01,0.3)", "--epochs", "8", "--report-every", "1"]
    words += ["--trials", "1", "--workers", "2", "--no-final", "--out", str(out)]
    name, _, value = mark.partition("=")
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *words],
        env={**os.environ, name: value}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        journal, end = out / "study.journal", time.monotonic() + 300
        while not (journal.exists() and '"intermediate_value"' in journal.read_text()):
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.05)
        mine = [pid for pid in titled("ray::", "TrainWorker") if mark in environment(pid)]
        assert len(mine) == 2
        os.kill(mine[-1], signal.SIGKILL)
        _, errors = process.communicate(timeout=400)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    (row,) = pq.read_table(out / "trials.parquet").to_pylist()
    assert (row["state"], row["epoch"], row["error"]) == ("complete", 8, None)


def environment(pid):
    return Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")


MODEL = """
import os, pathlib
from rsray.models import build
LOG = pathlib.Path({log!r})

def model(image_shape, num_classes):
    if os.getpid() == {driver}:  # which measures a step, to say how long the search will take
        return build("lenet", image_shape=image_shape, num_classes=num_classes)
    before = LOG.read_text().split() if LOG.exists() else []
    LOG.write_text(" ".join([*before, str(os.getpid())]))
    if not before:
        raise RuntimeError("CUDA error: device-side assert triggered")
    return build("lenet", image_shape=image_shape, num_classes=num_classes)
"""


@pytest.mark.slow
def test_a_trial_whose_gpu_breaks_runs_again_in_another_process(tmp_path, monkeypatch):
    log = tmp_path / "pids"
    (tmp_path / "breaks_once.py").write_text(MODEL.format(log=str(log), driver=os.getpid()))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    config = config_of(["lr=log(0.01,0.1)"], 2, epochs=1, model="breaks_once:model", limit=200)
    out = Place.of(tmp_path / "tune").make()
    found = search_here(config, out)
    assert [row["state"] for row in trial_rows(open_study(out, found))] == ["complete"] * 2
    first, second, third = map(int, log.read_text().split())
    assert first != second == third  # the second trial is at home in the new process
    assert os.getpid() not in (first, second)


def test_ray_imports_no_tracker_to_count_callbacks():
    """tune.run calls it by this name."""
    import ray.tune.tune
    from ray.air._internal import usage

    assert ray.tune.tune.air_usage is usage
    before = usage.tag_callbacks
    with search._callbacks_untold():
        assert usage.tag_callbacks([object()]) is False
    assert usage.tag_callbacks is before
