"""Bring a cluster up and take it down again: `ray up`, and nothing that is not ours is stopped."""

from __future__ import annotations

import os
import secrets
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import yaml

from rsray.cluster.dashboard import connect_through_ssh
from rsray.cluster.definition import NAME_VARIABLE, ClusterFile
from rsray.cluster.firewall import ensure_security_group
from rsray.cluster.ssh import ChangedKeyError, Host, on_premise_hosts
from rsray.errors import UserError

Say = Callable[[str], None]
# From the end of `ray up` to a dashboard that answers, and to the workers that are promised.
HEAD_SECONDS = 120.0
NODES_SECONDS = 180.0
STOP_SECONDS = 120.0


def is_up(cluster: ClusterFile) -> bool:
    """Tell whether the cluster's dashboard answers to this machine's token."""
    try:
        with connect_through_ssh(cluster):
            return True
    except UserError:
        return False


def bring_up(cluster: ClusterFile, say: Say) -> None:
    """Bring the cluster up and wait until its head answers; UserError when it does not.

    A cluster that is up as the definition says is left alone; else its Ray is started anew.
    """
    _make_home(cluster)
    definition = cluster.resolved()
    if cluster.provider == "aws":
        definition = ensure_security_group(definition, say)
    text = yaml.safe_dump(definition, sort_keys=False)
    is_same = cluster.resolved_file.exists() and cluster.resolved_file.read_text() == text
    if is_same and is_up(cluster):
        say(f"{cluster.name} is up already")
        return
    _write_private(cluster.resolved_file, text)
    if cluster.provider == "local":
        _stop_leftovers(cluster, say)
    say(f"ray up {cluster.path}: {cluster.name} on {cluster.provider}")
    _run_ray(cluster, "up", "-y", "--no-config-cache", str(cluster.resolved_file))
    gone = "deletes that copy" if cluster.provider == "local" else "deletes the head"
    say(
        "note: Ray has copied the ssh key to the head (~/ray_bootstrap_key.pem) to reach the "
        f"workers: use a key that opens nothing else; `rsray cluster down` {gone}"
    )
    end = time.monotonic() + HEAD_SECONDS
    while not is_up(cluster) and time.monotonic() < end:
        time.sleep(1)
    # Of a head that does not answer this raises why.
    _wait_for_nodes(cluster, say)


def _stop_leftovers(cluster: ClusterFile, say: Say) -> None:
    """Stop what is left of this cluster on its hosts: `ray start` refuses to start beside it."""
    for host in on_premise_hosts(cluster):
        try:
            _stop_host(cluster, host)
        except ChangedKeyError:
            # `ray up` checks no host key, and would copy the ssh key and the token there.
            raise
        except UserError as problem:
            say(f"warning: {problem}")
    _delete_launcher_files(cluster)


def take_down(cluster: ClusterFile, say: Say) -> None:
    """Stop the cluster's Ray on every host, or give its machines back; nothing else is touched.

    Raises UserError that names the hosts that could not be reached or still run something.
    """
    if cluster.provider == "local":
        _stop_hosts(cluster, say)
        _delete_launcher_files(cluster)
    elif cluster.resolved_file.exists():
        _run_ray(cluster, "down", "-y", str(cluster.resolved_file))
    else:
        raise UserError(f"{cluster.path} was not brought up from this machine")
    # The hosts of an on-premise cluster stay, and with them their pinned keys.
    gone = [cluster.token_file, cluster.resolved_file]
    if cluster.provider != "local":
        gone.append(cluster.home / "known_hosts")
    for file in gone:
        file.unlink(missing_ok=True)


def _make_home(cluster: ClusterFile) -> None:
    cluster.home.mkdir(parents=True, exist_ok=True)
    cluster.home.chmod(0o700)
    if not cluster.token_file.exists():
        _write_private(cluster.token_file, secrets.token_hex(32))


def _write_private(file: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    # mkstemp makes it 0600.
    handle, temporary = tempfile.mkstemp(dir=file.parent)
    with os.fdopen(handle, "w") as stream:
        stream.write(text)
    os.replace(temporary, file)


def _run_ray(cluster: ClusterFile, *words: str) -> None:
    """Run Ray's own command line; UserError with the end of what it said when it fails."""
    environment = {
        **os.environ,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(cluster.token_file),
        # Only autoscaler v1 starts workers of provider local (rsray/distributed/README.md).
        "RAY_UP_enable_autoscaler_v2": "0" if cluster.provider == "local" else "1",
    }
    log = cluster.home / f"ray-{words[0]}.log"
    with log.open("wb") as file:
        # -P: nothing of the current folder is imported.
        done = subprocess.run(
            [sys.executable, "-P", "-m", "ray.scripts.scripts", *words],
            env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
    if done.returncode:
        last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-4:]
        raise UserError(f"ray {words[0]} failed: {' / '.join(last)} (all of it: {log})")


def _wait_for_nodes(cluster: ClusterFile, say: Say) -> None:
    """Wait for the nodes that the definition promises; say it when some do not come."""
    end = time.monotonic() + NODES_SECONDS
    with connect_through_ssh(cluster) as dashboard:
        while True:
            alive = sum(node["state"] == "ALIVE" for node in dashboard.nodes())
            if alive >= cluster.promised_nodes:
                return
            if time.monotonic() > end:
                say(
                    f"warning: {alive} of {cluster.promised_nodes} nodes came within "
                    f"{NODES_SECONDS:.0f} s; see /tmp/ray/session_latest/logs/monitor.* on the head"
                )
                return
            time.sleep(1)


def stop_script(cluster: ClusterFile) -> str:
    """Return the shell script that stops this cluster's Ray on a host, and only that."""
    mark = shlex.quote(f"{NAME_VARIABLE}={cluster.name}")
    token = f"{cluster.layout.root}/auth_token"
    script = resources.files(__package__).joinpath("stop.sh").read_text()
    return f"mark={mark}\nname={cluster.name}\ntoken={token}\n{script}"


def _stop_host(cluster: ClusterFile, host: Host) -> tuple[int, int]:
    """Stop the cluster's processes on a host; returns how many there were and how many are left."""
    done = host.run(stop_script(cluster), timeout=STOP_SECONDS)
    answer = done.stdout.decode().split()
    if done.returncode or len(answer) != 2:
        raise host.login_error(done.stderr)
    return int(answer[0]), int(answer[1])


def _stop_hosts(cluster: ClusterFile, say: Say) -> None:
    failed = []
    # The head comes first: it would start workers again.
    for host in on_premise_hosts(cluster):
        try:
            found, left = _stop_host(cluster, host)
        except UserError as problem:
            failed.append(str(problem))
            continue
        say(f"{host.address}: {found - left} processes of {cluster.name} stopped")
        if left:
            failed.append(f"{left} processes are left on {host.address}")
    if failed:
        raise UserError(f"{cluster.name} is not down everywhere: {'; '.join(failed)}")


def _delete_launcher_files(cluster: ClusterFile) -> None:
    """Delete what `ray up` on this machine keeps of an on-premise cluster."""
    for suffix in ("state", "lock"):
        Path(f"/tmp/ray/cluster-{cluster.name}.{suffix}").unlink(missing_ok=True)
