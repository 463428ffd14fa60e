"""Logging in: a host's key is pinned on first use, and an address is never an option of ssh."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from edited import CLUSTERS, edit
from two_hosts import free_port

from rsray.cluster import launcher
from rsray.cluster.definition import read_cluster_file
from rsray.cluster.ssh import ChangedKeyError, Host
from rsray.distributed.sweeper import list_processes
from rsray.errors import UserError


def test_an_address_is_never_an_option(tmp_path):
    host = Host("-oProxyCommand=touch x", "me", None, tmp_path / "known_hosts")
    for line in (host.command("bash -s"), host.command(forward=["-N"])):
        assert line[line.index("--") + 1] == "me@-oProxyCommand=touch x"
    if shutil.which("ssh"):
        subprocess.run(
            ["ssh", "-o", "BatchMode=yes", "--", "-oProxyCommand=touch x"],
            cwd=tmp_path,
            capture_output=True,
        )
        assert not (tmp_path / "x").exists()


FAKE_SSH = """#!/bin/bash
cat > /dev/null
echo "WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!" >&2
echo "Host key verification failed." >&2
exit 255
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return read_cluster_file(edit(CLUSTERS / "local.yaml", tmp_path))


def test_nothing_is_sent_to_a_host_whose_key_has_changed(cluster, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ssh").write_text(FAKE_SSH)
    (tmp_path / "bin" / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setattr(launcher, "_run_ray", lambda *words: pytest.fail("ray up ran"))
    with pytest.raises(ChangedKeyError, match="another ssh key.*delete its line in .*known_hosts"):
        launcher.bring_up(cluster, print)
    with pytest.raises(UserError, match="another ssh key"):
        launcher.take_down(cluster, print)


def test_a_host_that_does_not_answer_is_told_in_a_line(tmp_path, monkeypatch):
    (tmp_path / "ssh").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(UserError, match="no answer from h in 0 s"):
        Host("h", "u", None, tmp_path / "known_hosts").run("true", timeout=0.2)


def test_the_keys_of_hosts_that_stay_are_kept(cluster, monkeypatch):
    monkeypatch.setattr(launcher, "_stop_host", lambda cluster, host: (0, 0))
    cluster.home.mkdir(parents=True)
    for name in ("known_hosts", "auth_token", "cluster.yaml"):
        (cluster.home / name).write_text("")
    launcher.take_down(cluster, lambda text: None)
    assert [file.name for file in cluster.home.iterdir()] == ["known_hosts"]


@pytest.mark.skipif(
    not (shutil.which("sshd") or Path("/usr/sbin/sshd").exists()) or os.geteuid() != 0,
    reason="needs openssh-server and root",
)
def test_a_real_host_with_a_new_key_is_refused(tmp_path):
    port = free_port()
    Path("/run/sshd").mkdir(exist_ok=True)
    subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", tmp_path / "id"], check=True)
    config = tmp_path / "sshd_config"
    config.write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {tmp_path}/host\nUsePAM no\nPidFile none\n"
        f"AuthorizedKeysFile {tmp_path}/id.pub\nStrictModes no\nPermitRootLogin prohibit-password\n"
    )
    known = tmp_path / "known_hosts"
    host = Host("127.0.0.1", "root", str(tmp_path / "id"), known, f"nc 127.0.0.1 {port}")
    if not shutil.which("nc"):
        host = Host("127.0.0.1", "root", str(tmp_path / "id"), known, _connector(tmp_path, port))

    def says():
        (tmp_path / "host").unlink(missing_ok=True)
        subprocess.run(
            ["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", tmp_path / "host"], check=True
        )
        server = subprocess.Popen(
            [shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-f", config],
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait(port)
            return host.run("echo hello")
        finally:
            server.terminate()
            server.wait()

    assert says().stdout == b"hello\n" and known.read_text()
    changed = says()
    assert changed.returncode == 255 and b"hello" not in changed.stdout
    assert isinstance(host.login_error(changed.stderr), ChangedKeyError)


def _connector(folder, port):
    script = folder / "connect.py"
    script.write_text(
        "import socket, sys, threading, os\n"
        f"s = socket.create_connection(('127.0.0.1', {port}))\n"
        "def up():\n"
        "    while data := os.read(0, 65536): s.sendall(data)\n"
        "threading.Thread(target=up, daemon=True).start()\n"
        "while data := s.recv(65536): os.write(1, data)\n"
    )
    return f"{shutil.which('python3')} {script}"


def _wait(port):
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)


def test_the_home_of_a_cluster_is_of_its_user_alone(cluster):
    launcher._make_home(cluster)
    assert cluster.home.stat().st_mode & 0o777 == 0o700
    assert cluster.token_file.stat().st_mode & 0o777 == 0o600
    assert yaml.safe_load(cluster.token_file.read_text()) is not None


# Forwards its port, as ssh does, and ends with its input.
FAKE_TUNNEL = """#!{python}
import os, socket, sys
at = sys.argv.index("-L") + 1
open({mark!r}, "w").write(str(os.getpid()))
server = socket.create_server(("127.0.0.1", int(sys.argv[at].split(":")[1])))
sys.stdin.read()
"""
DRIVER = """
import sys, time
from pathlib import Path
from rsray.cluster.ssh import Host
with Host("h", "u", None, Path("known")).tunnel(1):
    print("up", flush=True)
    time.sleep(100)
"""


def test_a_tunnel_goes_with_a_driver_that_is_killed(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    ssh, mark = tmp_path / "bin" / "ssh", tmp_path / "pid"
    ssh.write_text(FAKE_TUNNEL.format(python=sys.executable, mark=str(mark)))
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    driver = subprocess.Popen([sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, text=True)
    assert driver.stdout.readline() == "up\n"
    tunnel = int(mark.read_text())
    assert tunnel in list_processes()
    driver.kill()
    driver.communicate()
    end = time.monotonic() + 5
    while tunnel in list_processes() and time.monotonic() < end:
        time.sleep(0.1)
    assert tunnel not in list_processes()


def test_ray_up_imports_nothing_of_the_current_folder(cluster, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "yaml.py").write_text("open('RAN', 'w')")
    monkeypatch.chdir(tmp_path / "here")
    launcher._make_home(cluster)
    launcher._run_ray(cluster, "--version")
    assert not (tmp_path / "here" / "RAN").exists()
