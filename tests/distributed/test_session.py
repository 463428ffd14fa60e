"""How Ray is started: again where the machine was too busy, on loopback alone, with a token."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rsray.distributed import embedded_ray, session
from rsray.distributed.embedded_ray import make_token
from rsray.distributed.sweeper import ray_of
from rsray.errors import UserError

# 127.0.0.1 as IPv4 and in IPv6, and ::1.
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
LATE = Exception("The current node timed out during startup. This could happen because ...")


def fake_ray(*problems):
    """A ray whose init raises these, one a call, and then succeeds."""
    calls, left = [], list(problems)

    def init(**settings):
        calls.append("init")
        if left:
            raise left.pop(0)

    ray = SimpleNamespace(
        init=init, shutdown=lambda: calls.append("shutdown"), is_initialized=lambda: False,
        __file__="/no/such/ray/__init__.py",
        _private=SimpleNamespace(
            ray_constants=SimpleNamespace(ENABLE_RAY_CLUSTER=True),
            worker=SimpleNamespace(_global_node=None),
        ),
        job_config=SimpleNamespace(JobConfig=SimpleNamespace),
    )  # fmt: skip
    return ray, calls


@pytest.fixture
def start(monkeypatch, tmp_path):
    def run(*problems):
        ray, calls = fake_ray(*problems)
        monkeypatch.setitem(sys.modules, "ray", ray)
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        with session.session() as got:
            assert got is ray
        return calls

    return run


def test_a_start_that_took_too_long_is_tried_again(start):
    assert start() == ["init", "shutdown"]
    assert start(LATE, LATE) == ["init", "shutdown"] * 3


def test_after_three_times_the_user_is_told_in_a_line(start):
    with pytest.raises(UserError, match="did not start within 30 seconds, 3 times"):
        start(LATE, LATE, LATE)


def test_another_problem_is_not_tried_again(start):
    with pytest.raises(RuntimeError, match="something else"):
        start(RuntimeError("something else"))


def test_a_start_leaves_the_environment_as_it_was(start):
    before = dict(os.environ)
    start(LATE)
    assert {**os.environ, "HOME": before["HOME"]} == before


def test_a_signal_while_ray_starts_is_the_commands(start):
    """Ray answers SIGTERM by SystemExit(15), and leaves its handler."""
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    mine = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit):
            start(SystemExit(15))
        assert received == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_token_is_ours_before_ray_makes_it(tmp_path, monkeypatch):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    before = os.umask(0)
    try:
        make_token()
    finally:
        os.umask(before)
    file = tmp_path / ".ray" / "auth_token"
    token = file.read_text()
    assert len(token) == 64 and file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    # One that Ray has made is kept, and closed to others.
    file.chmod(0o644)
    file.parent.chmod(0o755)
    make_token()
    assert file.read_text() == token and file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("name", "value"),
    [("RAY_AUTH_TOKEN", "a"), ("RAY_AUTH_TOKEN_PATH", "/x"), ("RAY_AUTH_MODE", "disabled")],
)
def test_no_token_is_made_where_the_user_has_another(tmp_path, monkeypatch, name, value):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(name, value)
    make_token()
    assert not (tmp_path / ".ray").exists()


def test_the_embedded_ray_listens_on_loopback_alone(ray_session):
    """GCS, raylet, agents, workers, this process: what listens elsewhere is none of the run's."""
    import ray

    @ray.remote(num_cpus=0)
    class Worker:
        def start(self):
            return os.getpid()

    worker = Worker.remote()
    number = ray.get(worker.start.remote())
    listening = listening_addresses()
    run = {pid for pid, _ in ray_of(os.getpid(), str(Path(ray.__file__).parent))}
    assert number in run and len(run) >= 7
    found = [address for pid in {*run, os.getpid()} for address in listening.get(pid, ())]
    assert len(found) >= 6
    assert {address for address in found if address not in LOOPBACK} == set()


def test_workers_do_not_look_into_the_current_folder_first(ray_session):
    import ray

    @ray.remote(num_cpus=0)
    def search_path():
        return sys.path

    assert ray.get(search_path.remote())[0] != os.getcwd()


def listening_addresses():
    """Return the addresses on which each process listens, as the kernel writes them."""
    sockets = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A":
                sockets[f"socket:[{words[9]}]"] = words[1].partition(":")[0]
    found = {}
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            address = sockets.get(os.readlink(link))
        except OSError:
            continue
        if address:
            found.setdefault(int(link.parts[2]), []).append(address)
    return found


# What every driver asks first, of the process that every other is found by.
CLIENT = """
import sys
from ray._raylet import GcsClient
try:
    print("in", len(GcsClient(address=sys.argv[1]).internal_kv_keys(b"", None, 20)))
except Exception as problem:
    print("refused", type(problem).__name__)
"""


@pytest.mark.parametrize(
    ("token", "answer"),
    [
        ("own", "in"),
        ("wrong", "refused AuthenticationError"),
        (None, "refused AuthenticationError"),
    ],
)
def test_a_client_without_the_token_is_refused(ray_session, tmp_path, token, answer):
    import ray

    own = (Path.home() / ".ray" / "auth_token").read_text()
    given = {
        "own": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": own},
        "wrong": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
        None: {"RAY_AUTH_MODE": "disabled"},
    }
    # Nor is it found in the home folder.
    environment = {**os.environ, "HOME": str(tmp_path), **given[token]}
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, ray.get_runtime_context().gcs_address],
        capture_output=True, text=True, env=environment, timeout=100,
    )  # fmt: skip
    assert done.stdout.startswith(answer), done.stdout + done.stderr


def test_a_stream_of_images_has_room_in_the_object_store(monkeypatch, tmp_path):
    ray, shared = fake_ray()[0], SimpleNamespace(free=10 * 2**30)
    monkeypatch.setattr(embedded_ray.shutil, "disk_usage", lambda place: shared)
    monkeypatch.setattr(embedded_ray, "SHARED_MEMORY", tmp_path)
    memory = SimpleNamespace(estimate_available_memory=lambda: 100 * 2**30)
    monkeypatch.setattr(ray._private, "utils", memory, raising=False)
    size = embedded_ray.store_bytes
    assert size(ray, False) == 300 * 2**20 and size(ray, True) == 4 * 2**30
    # No more than a part of what is free, and never less than without.
    memory.estimate_available_memory = lambda: 10 * 2**30
    assert size(ray, True) == 2 * 2**30
    shared.free = 2**30
    assert size(ray, True) == int(0.9 * 2**30)
    shared.free = 2**26
    assert size(ray, True) == 300 * 2**20


def test_an_embedded_ray_is_told_of_the_gpus_that_torch_can_use(monkeypatch):
    given = []
    ray, _ = fake_ray()
    monkeypatch.setattr(ray, "init", lambda **settings: given.append(settings["num_gpus"]))
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for count in (0, 2):
        monkeypatch.setattr("rsray.core.gpus.usable_gpus", lambda: count)  # noqa: B023
        with session.session():
            pass
    assert given == [0, 2]


@pytest.mark.parametrize("address", ["127.0.0.1:99999999", "127.0.0.1:²", f"{'a' * 80}.com:1"])
def test_an_address_that_is_none_is_told_in_a_line(address, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", fake_ray()[0])
    with pytest.raises(UserError, match="no Ray cluster answers at"), session.session(address):
        pass
