"""Processes of a run are killed: a line says so within 20 seconds, and none outlives the run by 5."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
from processes import titled

from rsray.distributed.sweeper import list_processes, ray_of

# A command of rsray's that works on its Ray until it is stopped.
SCRIPT = """
import time, typer
from rsray_cli import main

@main.app.command()
def work_on() -> None:
    from rsray.distributed.session import session
    with session("local") as ray:
        @ray.remote(num_cpus=0)
        class Busy:
            def work(self):
                while True:
                    pass
            def start(self):
                pass
        actors = [Busy.remote() for _ in range(2)]
        ray.get([actor.start.remote() for actor in actors])
        try:
            print("ready", flush=True)
            ray.get([actor.work.remote() for actor in actors])
        finally:
            print("saved", flush=True)

main.run()
"""
NOTICED_WITHIN, GONE_WITHIN = 20.0, 5.0


@pytest.fixture
def starting(monkeypatch):
    """Start the command; yield its process."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "work-on"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, text=True,
    )  # fmt: skip
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def working(starting):
    """Yield the process when Ray works for it."""
    assert starting.stdout.readline() == "ready\n", starting.communicate()
    return starting


def of_run(process):
    """Return the command's Ray processes."""
    found = ray_of(process.pid, str(Path(ray.__file__).parent))
    assert len(found) >= 9
    return found


def named_children(parent, name):
    children = [pid for pid, (of, _) in list_processes().items() if of == parent]
    return [pid for pid in children if Path(f"/proc/{pid}/comm").read_text() == f"{name}\n"]


def wait_until_gone(processes):
    end = time.monotonic() + GONE_WITHIN
    left = processes
    while left and time.monotonic() < end:
        time.sleep(0.1)
        alive = list_processes()
        left = {(pid, start) for pid, start in left if alive.get(pid, (0, ""))[1] == start}
    assert not left, [Path(f"/proc/{pid}/cmdline").read_text() for pid, _ in left]


@pytest.mark.slow
@pytest.mark.parametrize(
    "victim", ["gcs_server", "raylet/raylet", "monitor.py", "DashboardAgent", "RuntimeEnvAgent"]
)
def test_a_process_of_ray_that_dies_ends_the_run_with_a_line(working, victim):
    processes = of_run(working)
    (number,) = {pid for pid, _ in processes} & set(titled(victim)) - set(titled("log_monitor"))
    os.kill(number, signal.SIGKILL)
    killed = time.monotonic()
    out, errors = working.communicate(timeout=60)
    assert time.monotonic() - killed < NOTICED_WITHIN
    wait_until_gone(processes)
    assert working.returncode == 1
    assert "saved" in out
    (line,) = errors.splitlines()
    assert line.startswith("Ray's process ") and line.endswith("run the same command again")


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "after"), [("gcs_server", 2.0), ("raylet", 0.0)])
def test_a_process_of_ray_that_dies_while_it_starts(starting, victim, after):
    """A GCS that has not yet said where it listens is started again: Ray waits without a look."""
    while not (found := named_children(starting.pid, victim)):
        time.sleep(0.1)
    time.sleep(after)
    os.kill(found[0], signal.SIGKILL)
    killed = time.monotonic()
    _, errors = starting.communicate(timeout=60)
    assert time.monotonic() - killed < NOTICED_WITHIN
    assert starting.returncode == 1
    (line,) = errors.splitlines()
    assert line.startswith("Ray's process ") and line.endswith("run the same command again")


@pytest.mark.slow
def test_a_driver_that_is_killed_leaves_nothing(working):
    processes = of_run(working)
    working.kill()
    wait_until_gone(processes)


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [True, False])
def test_a_run_that_is_terminated_leaves_nothing_and_exits_143(working, whole_group):
    processes = of_run(working)
    (os.killpg if whole_group else os.kill)(working.pid, signal.SIGTERM)
    out, errors = working.communicate(timeout=60)
    assert working.returncode == 143
    assert "saved" in out and errors.endswith("same command with the same --out continues\n")
    wait_until_gone(processes)
