"""Counting without Ray, from the request to CERT: equal counts, interrupts, processes that die."""

import importlib
import json
import os
import signal
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from saved_weights import save_weights

from rsray import models
from rsray.certification.counting import own_processes
from rsray.certification.counting.certification_run import CertificationRun
from rsray.certification.counting.counter import Counter
from rsray.certification.counting.own_processes import OwnProcesses
from rsray.certification.engine.evaluation import Evaluation
from rsray.certification.folder import claim
from rsray.certification.networks.opening import open_source
from rsray.certification.request import CertificationRequest, selected_images
from rsray.config import CertifyConfig
from rsray.data import open_split
from rsray.errors import UserError
from rsray.storage import Place


class Loop:
    """A fleet that is a loop: what the others are compared with."""

    largest, task_seconds = 1, 0.5

    def __init__(self, settings):
        self.settings = settings

    def answers(self, tasks, patience):
        yield from map(Counter(self.settings).count, tasks)


@pytest.fixture
def begin(tmp_path):
    """Return a function that begins a run on a few digits with a random LeNet."""
    torch.manual_seed(0)
    save_weights(
        models.build("lenet", image_shape=(1, 8, 8), num_classes=10), tmp_path / "w.safetensors"
    )
    split = open_split("digits", "test")

    def make(name, on_progress=lambda snapshot: None, model="lenet", weights="w", **settings):
        source = open_source(str(tmp_path / f"{weights}.safetensors"))
        normalise = None if ":" in model else "none"
        source = source.given(
            model=model, dataset="digits", sigma=0.25, normalise=normalise
        ).settled(split)
        config = CertifyConfig.make(
            {
                "source": source.where, **source.identity(), "num_classes": 10,
                "image_shape": split.image_shape, "n": 400, "block_size": 100, "limit": 12,
                "is_spread": True, "precision": "fp32", **settings,
            }
        )  # fmt: skip
        request = CertificationRequest(config, source, split, selected_images(config, split))
        # So slow that each task is an item or two.
        evaluation = Evaluation("cpu", "fp32", "channels_last", 96, draws_per_second=500.0)
        return CertificationRun(
            claim(Place.of(tmp_path / name), config, evaluation), request, on_progress
        )

    return make


def others_only(run, processes=1):
    """Return so many other processes, this one only watching."""
    fleet = OwnProcesses(run.counter_settings(1), processes + 1, seconds=100.0)
    fleet.counts_itself, fleet.others = False, processes
    return fleet


def rows(run):
    return pq.read_table(run.claimed.folder.local_path / "certificates.parquet").to_pylist()


@pytest.mark.slow
def test_processes_count_what_a_loop_counts_and_all_have_a_part(begin, monkeypatch):
    loop = begin("loop")
    loop.run(Loop(loop.counter_settings(1)))
    run, given = begin("own"), []
    give = own_processes._Other.give
    monkeypatch.setattr(
        own_processes._Other, "give", lambda other, queue: given.append(1) or give(other, queue)
    )
    fleet = others_only(run)
    run.run(fleet)
    assert given and rows(run) == rows(loop) and len(rows(run)) == 12
    alone = begin("alone")
    alone.run(OwnProcesses(alone.counter_settings(1), 2, seconds=1.0))
    assert rows(alone) == rows(loop)


def test_short_work_is_done_by_this_process_alone(begin):
    settings = begin("run").counter_settings(1)
    assert [OwnProcesses(settings, 4, seconds).others for seconds in (2.0, 30.0)] == [0, 3]


def test_an_interrupt_keeps_the_counts_and_leaves_no_process(begin):
    whole = begin("whole")
    whole.run(OwnProcesses(whole.counter_settings(1), 1, 1.0))

    def stop(snapshot):
        if snapshot["draws"]:
            raise KeyboardInterrupt

    run = begin("cut", stop)
    with pytest.raises(KeyboardInterrupt):
        run.run(OwnProcesses(run.counter_settings(1), 1, 1.0))
    stored = pq.read_table(run.claimed.folder.local_path / "counts").num_rows
    assert 0 < stored < 12 * 5
    again = begin("cut")
    again.run(Loop(again.counter_settings(1)))  # the rest by whoever
    assert rows(again) == rows(whole)
    progress = json.loads((run.claimed.folder.local_path / "progress.json").read_text())
    assert progress["images_done"] == 12 and progress["draws"] < 12 * 500


@pytest.mark.slow
def test_a_process_that_is_killed_costs_no_draw(begin, monkeypatch):
    loop = begin("loop")
    loop.run(Loop(loop.counter_settings(1)))
    killed, pids, give = [], [], own_processes._Other.give

    def kill_first(other, queue):
        pids.append(other.process.pid)
        is_given = give(other, queue)
        if not killed:
            killed.append(other.process.pid)
            os.kill(other.process.pid, signal.SIGKILL)
        return is_given

    monkeypatch.setattr(own_processes._Other, "give", kill_first)
    run = begin("own")
    run.run(others_only(run))
    assert rows(run) == rows(loop) and len(set(pids)) > 1
    for pid in set(pids):  # waited for, all of them
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.slow
def test_what_a_process_answered_before_it_died_is_kept(begin, monkeypatch):
    given, give, counted = [], own_processes._Other.give, []

    def kill_before_the_second(other, queue):
        given.append(other)
        if len(given) == 2:
            other.process.kill()
            other.process.wait()
        return give(other, queue)

    class Counting(OwnProcesses):
        def answers(self, tasks, patience):
            known = list(tasks)
            found = list(super().answers(iter(known), patience))
            counted.append((len(known), len(found)))
            yield from found

    monkeypatch.setattr(own_processes, "TASKS_IN_FLIGHT", 1)
    monkeypatch.setattr(own_processes._Other, "give", kill_before_the_second)
    run = begin("own")
    fleet = Counting(run.counter_settings(1), 2, seconds=100.0)
    fleet.counts_itself, fleet.others = False, 1
    run.run(fleet)
    ((tasks, answers),) = counted  # one round: nothing had to be made again
    assert tasks == answers > 1


@pytest.mark.parametrize(
    ("device", "settings", "is_cut"),
    [
        ("cuda", {"sampling": "skip"}, False),
        ("cuda", {"sampling": "fixed"}, True),
        ("cpu", {"sampling": "skip"}, True),
    ],
)
def test_gpus_that_may_be_unlike_share_no_image_whose_plan_its_selection_makes(
    begin, monkeypatch, device, settings, is_cut
):
    seen = []
    monkeypatch.setattr(
        "rsray.certification.counting.certification_run.share_out",
        lambda items, plan, **how: seen.append(how["may_cut"]) or iter(()),
    )
    run = begin("run", **settings)
    evaluation = replace(run.claimed.evaluation, device=device)
    run.claimed = replace(run.claimed, evaluation=evaluation)
    run._tasks(iter(()), 1, Loop(None), is_first=True)
    assert seen == [is_cut]


FUSSY = """
import os, torch
class Fussy(torch.nn.Linear):
    def __init__(self, num_classes):
        super().__init__(64, num_classes)
    def forward(self, images):
        if 0.353 < float(images[:8].mean()) < 0.45:
            {act}
        return super().forward(images.flatten(1))
"""


@pytest.mark.parametrize(
    ("act", "said"),
    [
        pytest.param("raise ValueError('x')", "ValueError: x", marks=pytest.mark.slow),
        pytest.param("os._exit(1)", "died each time", marks=pytest.mark.slow),
    ],
)
def test_an_image_that_fails_is_named_and_a_users_network_never_runs_here(
    begin, act, said, tmp_path, monkeypatch
):
    name = f"fussy_{len(act)}"
    (tmp_path / f"{name}.py").write_text(FUSSY.format(act=act))
    monkeypatch.syspath_prepend(str(tmp_path))
    save_weights(importlib.import_module(name).Fussy(10), tmp_path / "fussy.safetensors")
    chosen = {"skip": 9, "limit": None, "is_spread": False, "n": 100, "sigma": 0.01}
    run = begin("own", model=f"{name}:Fussy", weights="fussy", **chosen)
    split = run.request.split
    bright = {int(i) for i in run.selected.indices if split.images([i]).mean() / 255 > 0.353}
    assert 0 < len(bright) < 5
    summary = run.run(OwnProcesses(run.counter_settings(1), 1, 1.0))
    assert {int(index) for index in summary["failed"]} == bright
    assert all(said in reason for reason in summary["failed"].values())


def test_processes_that_cannot_start_say_why(begin, monkeypatch):
    run = begin("run")
    monkeypatch.setattr(own_processes.sys, "executable", "/bin/false")
    with pytest.raises(UserError, match="counting processes die as they start: exit status 1"):
        run.run(others_only(run))
