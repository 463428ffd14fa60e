"""ssh to a cluster's hosts: which they are, commands, and a tunnel to a port of the loopback."""

from __future__ import annotations

import io
import shlex
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml

from rsray.cluster.definition import ClusterFile
from rsray.errors import UserError

CONNECT_SECONDS = 10
TUNNEL_SECONDS = 20.0


class ChangedKeyError(UserError):
    """A host shows another key than the one that was pinned when it was first reached."""


@dataclass(frozen=True)
class Host:
    """A host and how to log in there."""

    address: str
    user: str
    key: str | None
    # The cluster's own file of host keys: the first use pins a key, and another is refused.
    known_hosts: Path
    proxy: str | None = None

    def command(self, *words: str, forward: Sequence[str] = ()) -> list[str]:
        """Return the ssh command line that runs these words, or forwards a port."""
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": str(CONNECT_SECONDS),
            "StrictHostKeyChecking": "accept-new",
            "UserKnownHostsFile": str(self.known_hosts),
            "ServerAliveInterval": "15",
            "LogLevel": "ERROR",
        }
        if self.proxy:
            options["ProxyCommand"] = self.proxy
        spelled = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
        identity = ["-i", self.key, "-o", "IdentitiesOnly=yes"] if self.key else []
        # After "--" an address is an address, whatever it begins with.
        return ["ssh", *spelled, *identity, *forward, "--", f"{self.user}@{self.address}", *words]

    def login_error(self, said: bytes) -> UserError:
        """Return what to raise when ssh does not let us in, by what it said."""
        reason = " ".join(said.decode(errors="replace").split())
        if "Host key verification failed" in reason:
            return ChangedKeyError(
                f"{self.address} shows another ssh key than before, so nothing is sent there: if "
                f"the host was installed anew, delete its line in {self.known_hosts}"
            )
        return UserError(f"no ssh to {self.user}@{self.address}: {reason or 'no answer'}")

    def run(
        self, script: str, *, timeout: float | None = None, out: IO[bytes] | int = subprocess.PIPE
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a shell script there, sent on its standard input, and return what it said.

        What it writes goes to `out`, if that is given. UserError after `timeout` seconds.
        """
        try:
            return subprocess.run(
                self.command("bash -s"),
                input=script.encode(), stdout=out, stderr=subprocess.PIPE, timeout=timeout,
            )  # fmt: skip
        except subprocess.TimeoutExpired as problem:
            seconds = problem.timeout
            raise UserError(f"no answer from {self.address} in {seconds:.0f} s") from problem

    @contextmanager
    def tunnel(self, port: int) -> Iterator[int]:
        """Yield a port of this machine's loopback that leads to `port` of the host's loopback.

        Raises UserError when the host does not let us in.
        """
        local = free_port()
        forward = ["-o", "ExitOnForwardFailure=yes"]
        forward += ["-L", f"127.0.0.1:{local}:127.0.0.1:{port}"]
        # Not a child of the terminal's group: Ctrl-C is for the command, which then closes it.
        with tempfile.TemporaryFile() as said:
            # It reads its input to the end, which comes when this process is gone, however it ends.
            process = subprocess.Popen(
                self.command("cat", forward=forward),
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said,
                start_new_session=True,
            )  # fmt: skip
            with process:
                try:
                    if not _wait_until_listening(process, local):
                        said.seek(0)
                        raise self.login_error(said.read())
                    yield local
                finally:
                    process.terminate()


def head_host(cluster: ClusterFile) -> Host:
    """Return the head of a cluster; UserError when the cloud has none of that name."""
    if cluster.hosts:
        return _make_host(cluster, cluster.hosts[0], cluster.resolved()["auth"])
    definition = yaml.safe_load(cluster.resolved_file.read_text())
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        from ray.autoscaler import sdk

        try:
            auth = sdk.bootstrap_config(dict(definition))["auth"]
            address = sdk.get_head_node_ip(definition)
        except (Exception, SystemExit) as problem:
            reason = " ".join(f"{said.getvalue()} {problem}".split())
            raise UserError(f"{cluster.path} is not up: {reason}") from problem
    return _make_host(cluster, address, auth)


def on_premise_hosts(cluster: ClusterFile) -> list[Host]:
    """Return the hosts of an on-premise cluster, head first."""
    auth = cluster.resolved()["auth"]
    return [_make_host(cluster, address, auth) for address in cluster.hosts]


def _make_host(cluster: ClusterFile, address: str, auth: dict[str, Any]) -> Host:
    return Host(
        address,
        auth["ssh_user"],
        auth.get("ssh_private_key"),
        cluster.home / "known_hosts",
        auth.get("ssh_proxy_command"),
    )


def shell_path(path: str) -> str:
    """Return a path quoted for a shell; a `~/` in front stays the home folder of that shell."""
    return '"$HOME"/' + shlex.quote(path[2:]) if path.startswith("~/") else shlex.quote(path)


def free_port() -> int:
    """Return a port of the loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_listening(process: subprocess.Popen[bytes], port: int) -> bool:
    end = time.monotonic() + TUNNEL_SECONDS
    while process.poll() is None and time.monotonic() < end:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        time.sleep(0.1)
    return False
