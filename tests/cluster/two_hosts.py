"""Two "hosts" on loopback addresses: a throw-away sshd, key, home folder and cluster definition."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
VENV = Path(sys.executable).parent.parent


def free_port():
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def require_tools():
    for tool in ("sshd", "ssh", "rsync", "ssh-keygen", "ps", "awk"):
        if shutil.which(tool) is None and not Path("/usr/sbin", tool).exists():
            pytest.skip(f"{tool} is not installed (apt-get install openssh-server rsync)")
    if os.geteuid() != 0:
        pytest.skip("a throw-away sshd that takes a home folder of its own needs root")


class TwoHosts:
    """An sshd of the test's own, whose sessions live in a home folder of the test's own."""

    def __init__(self, folder):
        self.folder, self.home = folder, folder / "home"
        self.home.mkdir(mode=0o700)
        # Addresses of this process's own: the head's Ray reaches its workers at port 22 only.
        self.head, self.worker = (f"127.{50 + os.getpid() % 200}.77.{last}" for last in (1, 2))
        self.key = folder / "id"
        subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", self.key], check=True)
        subprocess.run(
            ["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", folder / "host"], check=True
        )
        shutil.copy(f"{self.key}.pub", folder / "authorized_keys")
        Path("/run/sshd").mkdir(exist_ok=True)
        config = folder / "sshd_config"
        config.write_text(
            f"ListenAddress {self.head}:22\nListenAddress {self.worker}:22\n"
            f"HostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized_keys\n"
            "PasswordAuthentication no\nPermitRootLogin prohibit-password\nStrictModes no\n"
            f"UsePAM no\nPidFile none\nMaxStartups 100\nSetEnv HOME={self.home}\n"
        )
        self.process = subprocess.Popen(
            [shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-e", "-f", config],
            stderr=(folder / "sshd.log").open("wb"),
        )
        self._wait()
        # ssh looks for `~/ray_bootstrap_key.pem` in root's real home, whatever HOME says.
        (self.home / "bin").mkdir()
        wrapper = self.home / "bin" / "ssh"
        wrapper.write_text(
            f'#!/bin/sh\nexec {shutil.which("ssh")} -i "$HOME/ray_bootstrap_key.pem" "$@"\n'
        )
        wrapper.chmod(0o755)
        (self.home / ".bashrc").write_text(f"PATH={self.home}/bin:$PATH\n")
        rsray = self.home / "rsray"
        rsray.mkdir()
        (rsray / ".venv").symlink_to(VENV)

    def _wait(self):
        for _ in range(100):
            try:
                socket.create_connection((self.worker, 22), timeout=1).close()
                return
            except OSError:
                time.sleep(0.1)
        pytest.fail((self.folder / "sshd.log").read_text())

    def definition(self, name, **changes):
        """Write clusters/local.yaml as a user would edit it, for these hosts and free ports."""
        text = (ROOT / "clusters" / "local.yaml").read_text()
        gcs, dashboard, client = free_port(), free_port(), free_port()
        for old, new in {
            "rsray-local": name,
            "EDIT-head": self.head,
            "[EDIT-worker-1, EDIT-worker-2]": f"[{self.worker}]",
            "EDIT-user": "root",
            "~/.ssh/rsray_cluster": str(self.key),
            "6379": str(gcs),
            "8265": str(dashboard),
            "10001": str(client),
            "../": f"{ROOT}/",
            "ray start --head": "ray start --head --num-cpus=1 --object-store-memory=100000000",
            "ray start --address=$RAY_HEAD_IP": f"ray start --num-cpus=1 --object-store-memory=100000000 --node-ip-address={self.worker} --address=$RAY_HEAD_IP",
        }.items():
            assert old in text, f"clusters/local.yaml has no {old}"
            text = text.replace(old, new)
        values = yaml.safe_load(text)
        # The environment of this test instead of one that uv downloads.
        values["setup_commands"][1] = "test -x ~/rsray/.venv/bin/ray"
        values |= changes
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(values, sort_keys=False))
        return file

    def close(self):
        self.process.terminate()
        self.process.wait()


class Laptop:
    """The user's machine: a home folder, and the rsray command."""

    def __init__(self, home):
        self.home = home
        home.mkdir()
        hidden = ("RAY_", "RSRAY_")
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
        self.environment |= {"HOME": str(home), "PYTHONUNBUFFERED": "1"}

    def start(self, *words, **extra):
        script = "import sys; from rsray_cli.main import run; run()"
        return subprocess.Popen(
            [sys.executable, "-c", script, *map(str, words)],
            env=self.environment | extra, cwd=self.home, text=True,
            # A shell that started the tests in the background had Ctrl-C ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *words, status=0, timeout=400, **extra):
        process = self.start(*words, **extra)
        out, errors = process.communicate(timeout=timeout)
        assert process.returncode == status, f"{words}: {process.returncode}\n{out}\n{errors}"
        return out, errors
