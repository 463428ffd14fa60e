"""A real cluster of two "hosts" on loopback: up, certify over both, a host killed, down.

Everything lives in folders of the test's own, the hosts' home among them; nothing is left behind.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from two_hosts import Laptop, TwoHosts, require_tools

MARK = b"RSRAY_CLUSTER="
DRAWS = 15_000


def marked(name):
    """Return the processes (pid -> command line) that carry the cluster's name."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                environment = (folder / "environ").read_bytes().split(b"\0")
                if MARK + name.encode() in environment:
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().decode()
            except OSError:
                continue
    return found


def listening(port):
    """Return the addresses that listen on a port, in the hexadecimal of /proc/net/tcp."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            address, _, number = local.partition(":")
            if state == "0A" and int(number, 16) == port:
                found.add(address)
    return found


@pytest.fixture
def hosts(tmp_path):
    require_tools()
    found = TwoHosts(tmp_path)
    yield found
    found.close()


def kill_worker_host(name, address):
    """Kill the worker's raylet and all that hangs on it, as when its machine dies."""
    raylets = [
        pid
        for pid, line in marked(name).items()
        if "/raylet/raylet" in line and f"--node_ip_address={address}" in line
    ]
    assert len(raylets) == 1
    tree = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True).stdout
    parents = {int(pid): int(parent) for pid, parent in map(str.split, tree.splitlines())}
    victims = {pid for pid in parents if pid in raylets or parents[pid] in raylets}
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):  # a child may end first, its raylet gone
            os.kill(pid, signal.SIGKILL)


def rows(folder):
    return pq.read_table(folder / "certificates.parquet").to_pylist()


def read_until(process, text, timeout=300):
    """Return what stderr says up to `text`."""
    said, end = "", time.monotonic() + timeout
    while text not in said:
        line = process.stderr.readline()
        assert line and time.monotonic() < end, said
        said += line
    return said


@pytest.mark.slow
def test_a_cluster_from_up_to_down(hosts, tmp_path):
    name = f"rsray-test-{os.getpid()}"
    laptop, file = Laptop(tmp_path / "laptop"), hosts.definition(name)
    bystander = subprocess.Popen(["raylet", "600"], executable="/bin/sleep")  # `ray stop`s prey
    try:
        _use(hosts, laptop, file, name, tmp_path)
    finally:
        laptop.run("cluster", "down", file)
        alive = bystander.poll() is None
        bystander.kill()
        bystander.wait()
    assert alive, "a process that is not the cluster's was stopped"
    assert marked(name) == {}
    assert not list(hosts.home.glob("ray_bootstrap*")), "the private key stays on the head"
    assert not (hosts.home / "rsray" / "auth_token").exists()
    assert not list(Path("/tmp/ray").glob(f"cluster-{name}.*"))
    _, errors = laptop.run("cluster", "status", file, status=2)
    assert errors.startswith("error: ") and "is not up" in errors


def _use(hosts, laptop, file, name, tmp_path):
    out, errors = laptop.run("cluster", "up", file)
    assert "copied the ssh key to the head" in errors
    nodes = [line.split()[:3] for line in out.splitlines()]
    assert len(nodes) == 2 and all(state == "ALIVE" for _, _, state in nodes), out
    assert nodes[1][:2] == ["worker", hosts.worker]
    _check_it_is_closed(hosts, laptop, file)

    laptop.run(
        "train",
        "--dataset",
        "digits",
        "--objective",
        "gaussian",
        "--epochs",
        "2",
        "--out",
        tmp_path / "run",
    )
    words = [
        "certify",
        tmp_path / "run",
        "--n",
        DRAWS,
        "--skip",
        "30",
        "--precision",
        "fp32",
        "--compile",
        "off",
    ]
    process = laptop.start(*words, "--cluster", file, "--out", tmp_path / "there")
    read_until(process, "certifying")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 130 and "attach again: rsray cluster attach" in errors, errors
    counts = hosts.home / "rsray" / "out"
    end = time.monotonic() + 300
    both = set()
    # The first may have counted before the other is there.
    while time.monotonic() < end and (len(both) < 2 or not list(counts.glob("*/counts/*.parquet"))):
        time.sleep(0.2)
        both = {actor for actor, line in marked(name).items() if "CountingActor" in line}
        assert not list(counts.glob("*/certificates.parquet")), "too late to kill a host mid-run"
    assert len(both) == 2, "an actor on each host"
    kill_worker_host(name, hosts.worker)
    out, errors = laptop.run("cluster", "attach", file, timeout=400)
    assert out.strip() == str(tmp_path / "there"), errors

    laptop.run(*words, "--out", tmp_path / "here")
    assert rows(tmp_path / "there") == rows(tmp_path / "here")
    assert len(rows(tmp_path / "there")) == 15
    summary = json.loads((tmp_path / "there" / "summary.json").read_text())
    assert summary["draws"] == 15 * (DRAWS + 100) and not summary["failed"]
    _certify_at_the_address(hosts, laptop, file, tmp_path)


def _check_it_is_closed(hosts, laptop, file):
    values = yaml.safe_load(file.read_text())
    dashboard = values["metadata"]["rsray"]["dashboard_port"]
    assert listening(dashboard) == {"0100007F"}, "the dashboard is on 127.0.0.1 only"
    client = (
        values["head_start_ray_commands"][0].partition("--ray-client-server-port=")[2].split()[0]
    )
    assert listening(int(client)) == set()
    token = hosts.home / "rsray" / "auth_token"
    assert token.stat().st_mode & 0o777 == 0o600 and len(token.read_text()) == 64
    url = f"http://127.0.0.1:{dashboard}"
    for extra in ({"RAY_AUTH_TOKEN": "wrong"}, {"RAY_AUTH_MODE": "disabled"}):
        _, errors = laptop.run("cluster", "status", url, status=2, **extra)
        assert "RAY_AUTH_TOKEN" in errors and "Traceback" not in errors
    out, _ = laptop.run("cluster", "status", url, RAY_AUTH_TOKEN=token.read_text())
    assert out.count("ALIVE") == 2


def _certify_at_the_address(hosts, laptop, file, tmp_path):
    """Run as at an address that only gives a URL: results come through a job's log."""
    port = yaml.safe_load(file.read_text())["metadata"]["rsray"]["dashboard_port"]
    token = (hosts.home / "rsray" / "auth_token").read_text()
    words = [
        "certify",
        tmp_path / "run",
        "--n",
        500,
        "--limit",
        "3",
        "--precision",
        "fp32",
        "--compile",
        "off",
    ]
    where = ["--cluster", f"http://127.0.0.1:{port}", "--out", tmp_path / "by-url"]
    laptop.run(*words, *where, RAY_AUTH_TOKEN=token)
    assert len(rows(tmp_path / "by-url")) == 3
