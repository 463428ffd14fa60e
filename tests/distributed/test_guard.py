"""The guard over a stand-in for Ray: processes that are lost, and processes that are left.

What it does with a real Ray is in test_faults.py.
"""

import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from ray.exceptions import RayActorError

from rsray.distributed import guard
from rsray.distributed.guard import Guard
from rsray.distributed.sweeper import list_processes
from rsray.errors import LostProcessError, UserError

# Starts a process of "Ray" that starts an agent; neither minds its parent. Then it works.
SCRIPT = """
import subprocess, sys, time
from pathlib import Path
from types import SimpleNamespace
from rsray_cli import main
from rsray.distributed import guard

guard.MOST_SECONDS_TO_SAVE, guard.SECONDS_TO_END_BY_ITSELF = 3.0, 0.5
folder = Path(sys.argv[2])
dead = folder / "dead"
AGENT = "import time; print(__import__('os').getpid(), flush=True); time.sleep(100)"
RAYLET = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {AGENT!r}])"

@main.app.command()
def work_on(folder: str, unwinding: float) -> None:
    node = SimpleNamespace(dead_processes=lambda: [("raylet", None)] if dead.exists() else [])
    ray = SimpleNamespace(
        __file__=f"{folder}/ray/__init__.py", shutdown=lambda: None,
        _private=SimpleNamespace(worker=SimpleNamespace(_global_node=node)),
    )
    with guard.Guard(ray) as over, over.watching():
        subprocess.Popen([sys.executable, "-c", RAYLET, f"{folder}/ray/raylet"])
        time.sleep(2)
        try:
            print("ready", flush=True)
            time.sleep(60)
        finally:
            time.sleep(unwinding)

main.run()
"""


@pytest.fixture
def working(tmp_path):
    started = []

    def start(unwinding=0.0):
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, "work-on", str(tmp_path), str(unwinding)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        agent = process.stdout.readline()
        assert process.stdout.readline() == "ready\n", process.communicate()
        return process, int(agent)

    yield start
    for process in started:
        process.kill()


def is_gone(number, within=5.0):
    end = time.monotonic() + within
    while time.monotonic() < end:
        if number not in list_processes():
            return True
        time.sleep(0.1)
    return False


def test_what_ray_has_started_goes_with_a_driver_that_is_killed(working):
    process, agent = working()
    assert agent in list_processes()
    process.kill()
    assert is_gone(agent)


@pytest.mark.parametrize(
    "unwinding",
    [pytest.param(0.0, id="saves"), pytest.param(60.0, id="hangs", marks=pytest.mark.slow)],
)
def test_a_lost_process_ends_a_command_with_a_line(working, tmp_path, unwinding):
    process, agent = working(unwinding)
    (tmp_path / "dead").touch()
    began = time.monotonic()
    process.wait(timeout=20)
    assert time.monotonic() - began < 20
    assert process.returncode == 1
    assert is_gone(agent)
    (line,) = process.stderr.read().splitlines()
    assert line == (
        "Ray's process 'raylet' has died: what was done is saved; run the same command again"
    )


def watched(monkeypatch, dead):
    monkeypatch.setattr(guard, "LOOK_EVERY_SECONDS", 0.05)
    monkeypatch.setattr(guard, "SECONDS_TO_END_BY_ITSELF", 0.05)
    node = SimpleNamespace(dead_processes=lambda: [("gcs_server", None)] if dead else [])
    worker, calls = SimpleNamespace(_global_node=node), []
    ray = SimpleNamespace(
        __file__="/no/such/ray/__init__.py", _private=SimpleNamespace(worker=worker),
        shutdown=lambda: calls.append("shutdown"),
    )  # fmt: skip
    return Guard(ray), calls


def test_in_a_notebook_a_lost_process_raises_and_the_session_is_shut_down(monkeypatch):
    monkeypatch.setattr(guard, "_is_command", lambda: False)
    dead = []
    over, calls = watched(monkeypatch, dead)
    with pytest.raises(LostProcessError, match="gcs_server"), over, over.watching():
        dead.append(True)
        time.sleep(20)
    assert calls == ["shutdown"]


def test_a_process_that_dies_while_ray_starts_is_lost_until_the_next_start(monkeypatch, tmp_path):
    """Ray itself knows nothing of its processes then."""
    over, _ = watched(monkeypatch, [])
    over.ray._private.worker._global_node = None
    shutil.copy(shutil.which("sleep"), tmp_path / "gcs_server")
    begun = subprocess.Popen([tmp_path / "gcs_server", "100"])
    with pytest.raises(LostProcessError, match="gcs_server"), over, over.watching():
        time.sleep(0.5)
        begun.kill()
        time.sleep(20)
    over.sweep()
    assert over._dead() == ""
    assert begun.wait() == 0, "the status is gone with the process"


def test_what_an_earlier_session_left_dead_is_not_lost_by_the_next(monkeypatch, tmp_path):
    over, _ = watched(monkeypatch, [])
    over.ray._private.worker._global_node = None
    shutil.copy(shutil.which("sleep"), tmp_path / "raylet")
    left = subprocess.Popen([tmp_path / "raylet", "0"])
    while left.pid in list_processes():
        time.sleep(0.05)
    with over, over.watching():
        time.sleep(0.5)


def test_what_comes_of_a_lost_process_is_told_as_that(monkeypatch):
    over, _ = watched(monkeypatch, [True])
    with pytest.raises(LostProcessError), over, over.watching():
        raise UserError("actors die as they start")


@pytest.mark.parametrize("reason", ["Owner's node has crashed.", "its node has died", ""])
def test_a_node_that_is_gone_before_its_process_is_told_as_lost(monkeypatch, reason):
    """The raylet tells the others that it goes, and is a while about it."""
    monkeypatch.setattr(guard, "SECONDS_TO_END_BY_ITSELF", 0.2)
    over, _ = watched(monkeypatch, [])
    problem = RayActorError(error_msg=f"The actor is dead. {reason}")
    expected = LostProcessError if reason else RayActorError
    with pytest.raises(expected), over, over.watching():
        raise problem


@pytest.mark.parametrize("problem", [UserError("a mistake"), KeyboardInterrupt()])
def test_other_ends_are_what_they_are(monkeypatch, problem):
    over, calls = watched(monkeypatch, [])
    with pytest.raises(type(problem)), over, over.watching():
        raise problem
    assert calls == ["shutdown"]


def test_one_that_watches_over_the_run_is_started_again(monkeypatch):
    over, _ = watched(monkeypatch, [])
    with over, over.watching():
        first = over.sweeper
        first.kill()
        end = time.monotonic() + 10
        while over.sweeper is first and time.monotonic() < end:
            time.sleep(0.05)
        assert over.sweeper.pid != first.pid
