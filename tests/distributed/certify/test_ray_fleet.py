"""Tasks through Ray Data: what is asked of it for GPUs, and what a fleet that hangs comes to."""

import json
import subprocess
import sys
import textwrap
from itertools import count
from threading import Event

import pyarrow as pa
import pytest

from rsray.certification.counting.answers import read_items
from rsray.certification.work_items import WorkItem
from rsray.distributed.capacity import FleetSize
from rsray.distributed.certify import ray_fleet
from rsray.distributed.certify.ray_fleet import RayFleet, make_lot, stream
from rsray.errors import UserError


class Echo:
    def __init__(self, job):
        pass

    def __call__(self, task):
        return task


def test_actors_on_gpus_are_waited_for_and_then_given_up(ray_session):
    """Ray Data takes the request; no such node comes."""
    tasks = [pa.table({"index": [1, 2]})]
    with pytest.raises(UserError, match="no actor has answered for 0 minutes"):
        list(stream(make_lot(tasks), Echo, {}, FleetSize(1, 0.5, 1000.0), patience=3.0))


@pytest.mark.parametrize("actors", [1, 2, 64, 500, 2000, 10**6])
def test_a_fleet_asks_no_more_of_the_driver_than_that_carries(actors):
    fleet = RayFleet(FleetSize(1, 1.0, 0.0, most=actors), counter=None)
    assert 10 <= fleet.task_seconds <= 100, "what a lost actor costs"
    assert actors > 2000 or actors / fleet.task_seconds <= 20, "a sixth of what bench_fleet saw"
    assert min(4000, 400 * actors) <= fleet.tasks_at_once <= 80_000, "30 kB of the driver each"
    lot_seconds = fleet.tasks_at_once * fleet.task_seconds / actors
    assert actors > 800 or lot_seconds >= 100 * (20 + fleet.task_seconds / 2), "1 % to start anew"
    assert fleet.task_seconds == 10 or actors > 200


def test_the_next_lot_is_made_while_one_is_counted(ray_session, monkeypatch):
    """Every task is given once, in lots; a run that is closed makes no more of the next."""
    monkeypatch.setattr(ray_fleet, "LEAST_AT_ONCE", 4)
    monkeypatch.setattr(ray_fleet, "TASKS_AT_ONCE_PER_ACTOR", 0)
    made, given, next_is_made = [], [], Event()

    def make(tasks):
        made.append(len(list(tasks)))
        if len(made) > 1:
            next_is_made.set()
        return tasks

    def stream(lot, *others):
        for task in lot:
            assert next_is_made.wait(20), "the second lot waits for the first to end"
            given.extend(item.index for item in read_items(task))
            yield task

    monkeypatch.setattr(ray_fleet, "make_lot", make)
    monkeypatch.setattr(ray_fleet, "stream", stream)
    monkeypatch.setattr(ray_fleet, "read_answers", lambda table: [table])
    fleet = RayFleet(FleetSize(1, 1.0, 0.0), counter=None)
    tasks = [[WorkItem(i, 0, 0, 1, False, 0)] for i in range(10)]
    assert len(list(fleet.answers(iter(tasks), 1.0))) == 10
    assert (made, given) == ([4, 4, 2], list(range(10)))

    asked = []
    endless = ([WorkItem(i, 0, 0, 1, False, 0)] for i in count() if asked.append(i) is None)
    answers = fleet.answers(endless, 1.0)
    next(answers)
    answers.close()
    assert len(asked) <= 12, "it takes no lot after the one that is being made"


def test_a_lot_that_nobody_wants_is_not_made_to_its_end():
    stopped = Event()
    lot = ray_fleet._UntilStopped(stopped)
    lot.extend([1, 2, 3])
    tasks = iter(lot)
    assert next(tasks) == 1
    stopped.set()
    assert list(tasks) == [] and len(lot) == 3


@pytest.mark.slow
def test_actors_on_parts_of_a_gpu_answer_in_the_thread_that_built_them():
    """A Ray that believes in a GPU: two actors on it, a call per item, an answer per task."""
    script = """
        import json, os, sys, threading
        import pyarrow as pa
        import ray
        from rsray.distributed.capacity import FleetSize
        from rsray.distributed.certify.ray_fleet import make_lot, stream

        class Counter:
            def __init__(self, job):
                self.thread, self.gpus = threading.get_ident(), ray.get_gpu_ids()

            def __call__(self, task):
                same = self.thread == threading.get_ident()
                return task.append_column("seen", [[len(task)]]).append_column("same", [[same]])

        ray.init(address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
        tasks = [pa.table({"index": [2 * i, 2 * i + 1]}) for i in range(8)]
        answers = [each.to_pydict() for each in stream(make_lot(tasks), Counter, {}, FleetSize(2, 0.5, 0.5))]
        print(json.dumps(answers))
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=400
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    answers = json.loads(ran.stdout.splitlines()[-1])
    assert sorted(tuple(each["index"]) for each in answers) == [
        (2 * i, 2 * i + 1) for i in range(8)
    ]
    assert all(each["seen"] == [1, 1] and all(each["same"]) for each in answers)
