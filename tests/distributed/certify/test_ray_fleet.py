"""Tasks through Ray Data: what is asked of it for GPUs, and what a fleet that hangs comes to."""

import json
import subprocess
import sys
import textwrap

import pyarrow as pa
import pytest

from rsray.distributed.capacity import FleetSize
from rsray.distributed.certify.ray_fleet import RayFleet, stream
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
        list(stream(tasks, Echo, {}, FleetSize(1, 0.5, 1000.0), patience=3.0))


@pytest.mark.parametrize("actors", [1, 2, 64, 500, 2000, 10**6])
def test_a_fleet_asks_no_more_of_the_driver_than_that_carries(actors):
    fleet = RayFleet(FleetSize(1, 1.0, 0.0, most=actors), counter=None)
    assert 10 <= fleet.task_seconds <= 100, "what a lost actor costs"
    assert actors > 2000 or actors / fleet.task_seconds <= 20, "a sixth of what bench_fleet saw"
    assert min(2000, 200 * actors) <= fleet.tasks_at_once <= 40_000, "a millisecond each"
    assert fleet.task_seconds == 10 or actors > 200


@pytest.mark.slow
def test_actors_on_parts_of_a_gpu_answer_in_the_thread_that_built_them():
    """A Ray that believes in a GPU: two actors on it, a call per item, an answer per task."""
    script = """
        import json, os, sys, threading
        import pyarrow as pa
        import ray
        from rsray.distributed.capacity import FleetSize
        from rsray.distributed.certify.ray_fleet import stream

        class Counter:
            def __init__(self, job):
                self.thread, self.gpus = threading.get_ident(), ray.get_gpu_ids()

            def __call__(self, task):
                same = self.thread == threading.get_ident()
                return task.append_column("seen", [[len(task)]]).append_column("same", [[same]])

        ray.init(address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
        tasks = [pa.table({"index": [2 * i, 2 * i + 1]}) for i in range(8)]
        answers = [each.to_pydict() for each in stream(tasks, Counter, {}, FleetSize(2, 0.5, 0.5))]
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
