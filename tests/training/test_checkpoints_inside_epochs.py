"""A run that is cut inside an epoch goes on at its step, as if nothing had been."""

import copy
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from interrupted_runs import METHODS, PowerCutError, same
from safetensors.torch import load_file

from rsray.storage import Place
from rsray.training import opened_run
from rsray.training.loop import Training
from rsray.training.opened_run import Team
from rsray.training.run_folder import clock as checkpoint_clock
from rsray.training.run_folder.checkpoint import (
    Position,
    latest_position,
    load_checkpoint,
    save_checkpoint,
)
from rsray.training.run_folder.clock import CheckpointClock
from rsray.training.run_folder.metrics import read_metrics
from rsray.training.run_folder.run import claim_run, open_training_split

CPU = torch.device("cpu")
# Figures that are of the clock.
TIMES = ("seconds", "draws_per_second")
# So soon that there is one after every step.
AT_ONCE = {"checkpoint_minutes": 1e-9}


@pytest.fixture(autouse=True)
def _look_at_every_step(monkeypatch):
    monkeypatch.setattr(checkpoint_clock, "LOOK_EVERY_SECONDS", 0.0)


def cut_at(epoch, step):
    def on_progress(progress):
        if (progress.epoch, progress.step) == (epoch, step) and progress.epoch_figures is None:
            raise PowerCutError

    return on_progress


def learnt(run):
    """Return the figures of each epoch but those of the clock."""
    rows = read_metrics(run)
    return [{key: row[key] for key in row if key not in TIMES} for row in rows]


# Seconds each: all have the same code but for the companion's and the optimiser's.
USUAL = ("gaussian, adam and cosine", "sodm")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in USUAL else pytest.mark.slow) for name in METHODS],
)
def test_cut_three_times_inside_an_epoch(name, lab, moody):
    settings = {
        "objective": name.split(",")[0], "model": moody, "epochs": 3, "lr_drops": [1], "limit": 80,
        "batch_size": 16, "augmentation": "crop-flip", **METHODS[name],
    }  # fmt: skip
    whole = lab.folder("whole")
    undisturbed = lab.training(lab.config(**settings), whole)
    undisturbed.run_epochs()
    run, config = lab.folder("run"), lab.config(**settings, **AT_ONCE)
    begun = []
    for cut in [(1, 2), (1, 4), (1, 5)]:
        training = lab.training(config, run)
        begun.append((training.epoch, training.part.first_step))
        training.on_progress = cut_at(*cut)
        with pytest.raises(PowerCutError):
            training.run_epochs()
    # The checkpoint of the step that was cut is not made; the one before it is.
    assert begun == [(0, 0), (1, 1), (1, 3)]
    resumed = lab.training(config, run)
    assert (resumed.epoch, resumed.part.first_step) == (1, 4)
    resumed.run_epochs()
    assert same(resumed.model.state_dict(), undisturbed.model.state_dict())
    assert learnt(run) == learnt(whole)
    if resumed.companion is not None:
        assert same(resumed.companion.state_dict(), undisturbed.companion.state_dict())


def test_without_minutes_there_is_none_inside_an_epoch(lab):
    run = lab.folder("run")
    lab.rows(lab.config(checkpoint_minutes=0), run)
    assert (run / "checkpoints").names() == ["epoch-00001.pt", "epoch-00002.pt"]
    assert lab.rows(lab.config(**AT_ONCE), run) == [], "another number of minutes is the same run"


def test_the_seconds_of_an_epoch_are_those_of_all_starts(lab):
    run, config = lab.folder("run"), lab.config(epochs=1, **AT_ONCE)
    training = lab.training(config, run)

    def slow(progress):
        time.sleep(0.3)
        cut_at(0, 2)(progress)

    training.on_progress = slow
    with pytest.raises(PowerCutError):
        training.run_epochs()
    assert lab.rows(config, run)[0]["seconds"] >= 0.3


def test_workers_resume_together_with_the_figures_of_all(lab, monkeypatch):
    """Two workers as threads: the first one's checkpoint holds what both have counted."""
    barrier, box = threading.Barrier(2, timeout=20), {}

    def sum_over(rank, mine):
        box[rank] = mine.clone()
        barrier.wait()
        total = box[0] + box[1]
        barrier.wait()
        return mine.copy_(total)

    settings = {"epochs": 1, "limit": 60, "batch_size": 20, "lr": 1e-9}
    config, alone = lab.config(**settings, **AT_ONCE), lab.folder("alone")
    lab.rows(lab.config(**settings), alone)
    run, split = lab.folder("run"), open_training_split(config)
    claim_run(run, config, split, CPU)
    # torch's seed is the process's: threads that draw their weights at once would mix them.
    torch.manual_seed(config.seed)
    network = opened_run.build_model(config, split)
    monkeypatch.setattr(opened_run, "build_model", lambda config, split: copy.deepcopy(network))

    def train(rank, cut):
        team = Team(rank, 2, sum_over=partial(sum_over, rank))
        training = Training(config, run, CPU, team, on_progress=cut_at(0, cut))
        begun = training.part.first_step
        try:
            training.run_epochs()
        except PowerCutError:
            pass
        return begun

    with ThreadPoolExecutor(2) as pool:
        for cut, first in ((2, 0), (9, 1)):
            begun = list(pool.map(lambda rank, cut=cut: train(rank, cut), range(2)))
            assert begun == [first, first]
    (row,), (expected,) = learnt(run), learnt(alone)
    assert row == pytest.approx(expected, rel=1e-5)


def test_a_checkpoint_inside_an_epoch_is_behind_its_beginning_and_before_its_end(tmp_path):
    run = Place.of(tmp_path)
    places = [Position(3), Position(3, 9), Position(3, 10), Position(4), Position(12345, 10**6)]
    for position in places:
        save_checkpoint(run, position, {"value": torch.tensor(1)})
        assert latest_position(run) == position
        state = load_checkpoint(run, position)
        assert (state["epoch"], state["step"]) == position
    assert (run / "checkpoints").names() == [position.file_name for position in places[-2:]]
    assert str(Position(3, 9)) == "3 epochs and 9 steps" and str(Position(4)) == "4 epochs"


@pytest.fixture
def now(monkeypatch):
    """The time, which stands until it is set; looks are five seconds apart again."""
    time_is = [0.0]
    monkeypatch.setattr(checkpoint_clock.time, "monotonic", lambda: time_is[0])
    monkeypatch.setattr(checkpoint_clock, "LOOK_EVERY_SECONDS", 5.0)
    return time_is


def test_workers_ask_each_other_every_few_seconds(now):
    asked = []

    def count(times):
        asked.append(now[0])
        return times

    clock = CheckpointClock(1.0, CPU, count)
    due = []
    for step in range(1, 301):
        now[0] += 0.5
        if clock.is_due():
            due.append(step)
            clock.restart()
    assert len(asked) == 30 and asked[:3] == [0.5, 5.5, 10.5]
    assert due == [121, 241], "a minute is 120 steps; the first look is after one"


def test_the_first_workers_clock_decides(now):
    clock = CheckpointClock(1.0, CPU, lambda times: times, is_first=False)
    now[0] = 1000.0
    assert not clock.is_due()
    first = torch.tensor([5.0, 61.0], dtype=torch.float64)
    assert CheckpointClock(1.0, CPU, lambda times: times + first, is_first=False).is_due()


def test_a_notice_makes_a_checkpoint_due_once_and_another_notice_another(now):
    told = [None]
    clock = CheckpointClock(0.0, CPU, lambda times: times, notice=lambda: told[0])

    def is_due():
        now[0] += 5.0
        return clock.is_due()

    assert [is_due(), is_due()] == [False, False]
    told[0] = "node a"
    assert [is_due(), is_due()] == [True, False]
    told[0] = "nodes a and b"
    assert [is_due(), is_due()] == [True, False]


def test_a_notice_leaves_a_checkpoint_in_the_run(lab):
    run = lab.folder("run")
    training = lab.training(lab.config(epochs=1, checkpoint_minutes=0), run)
    training.clock.notice = lambda: "a machine goes"
    training.on_progress = cut_at(0, 2)
    with pytest.raises(PowerCutError):
        training.run_epochs()
    assert latest_position(run) == (0, 1)


COMMAND = """
import sys
from rsray.training.run_folder import clock as checkpoint_clock
checkpoint_clock.LOOK_EVERY_SECONDS = 0.05
from rsray_cli.main import run
run()
"""
TRAIN = "train --dataset digits --objective gaussian --epochs 2 --batch-size 2 --limit 600 --out"


@pytest.mark.slow
def test_a_process_that_is_killed_three_times_inside_an_epoch(tmp_path):
    def start(name, *more):
        words = [*TRAIN.split(), str(tmp_path / name), *more]
        return subprocess.Popen([sys.executable, "-c", COMMAND, *words], stderr=subprocess.PIPE)

    run, killed = Place.of(tmp_path / "run"), []
    for _ in range(3):
        process = start("run", "--checkpoint-minutes", "0.002")
        end = time.monotonic() + 120
        before = latest_position(run)
        while latest_position(run) <= before or not latest_position(run).step:
            assert process.poll() is None and time.monotonic() < end, process.stderr.read()
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        killed.append(latest_position(run))
    assert all(position.step for position in killed) and killed == sorted(set(killed))
    for name in ("run", "whole"):
        process = start(name)
        assert process.wait(timeout=300) == 0, process.communicate()
    ours, theirs = (load_file(tmp_path / n / "model.safetensors") for n in ("run", "whole"))
    assert same(ours, theirs)
    assert learnt(run) == learnt(Place.of(tmp_path / "whole"))


def test_the_newest_two_checkpoints_are_kept_whatever_their_names_sort_like(tmp_path):
    run = Place.of(tmp_path)
    for epoch in (99_998, 99_999, 100_000):
        save_checkpoint(run, Position(epoch), {})
    assert latest_position(run) == Position(100_000)
    assert (run / "checkpoints").names() == ["epoch-100000.pt", "epoch-99999.pt"]
