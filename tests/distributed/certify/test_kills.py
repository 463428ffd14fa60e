"""Real processes are killed mid-run; the certificates must not show it."""

import os
import signal
import subprocess
import sys
import threading
import time

import pyarrow.parquet as pq
import pytest
from processes import titled

from rsray.certification.networks.opening import open_source
from rsray.certification.request import CertificationRequest, selected_images
from rsray.config import CertifyConfig
from rsray.data import open_split
from rsray.distributed.certify.certifier import certify
from rsray.distributed.session import session
from rsray.storage import Place

DRAWS = 25_000  # per image, 15 images: tens of seconds of counting in float32


def settings(run, **changes):
    source = open_source(str(run))
    values = {
        "source": source.where, "model_digest": source.digest, "dataset": "digits",
        "model": source.model, "num_classes": 10, "image_shape": (1, 8, 8), "sigma": 0.25, "n": DRAWS, "skip": 30,
        "precision": "fp32", "actors": 2,
    }  # fmt: skip
    return source, CertifyConfig.make({**values, **changes})


def run_certify(run, out, on_progress=lambda snapshot: None, address=None, **changes):
    source, config = settings(run, **changes)
    split = open_split("digits", "test")
    request = CertificationRequest(config, source, split, selected_images(config, split))
    return certify(request, Place.of(out), on_progress=on_progress, address=address or "local")


def rows(folder):
    return pq.read_table(folder / "certificates.parquet").to_pylist()


def check_counts(folder):
    """Every block is stored once and the draws add up."""
    stored = pq.read_table(folder / "counts").to_pylist()
    keys = [(row["index"], row["stage"], row["block"]) for row in stored]
    assert len(keys) == len(set(keys))
    assert sum(row["draws"] for row in stored) == 15 * (DRAWS + 100)


@pytest.fixture(scope="module")
def undisturbed(ray_session, digits_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "cert"
    run_certify(digits_run, out)
    return rows(out)


def actor_processes():
    return titled("CountingActor")


@pytest.mark.slow
def test_an_actor_killed_mid_run(ray_session, digits_run, undisturbed, tmp_path):
    killed = []

    def kill_one(snapshot):
        if snapshot["draws"] > 0 and not killed:
            victims = actor_processes()
            assert victims
            os.kill(victims[0], signal.SIGKILL)
            killed.append(victims[0])

    run_certify(digits_run, tmp_path / "cert", kill_one)
    assert killed
    assert rows(tmp_path / "cert") == undisturbed
    check_counts(tmp_path / "cert")


def start_command(run, out):
    script = "import sys; from rsray_cli.main import run; run()"
    arguments = [
        "certify",
        str(run),
        "--n",
        str(DRAWS),
        "--skip",
        "30",
        "--precision",
        "fp32",
        "--address",
        "local",
    ]
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments, "--out", str(out)],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True, text=True,
    )  # fmt: skip


def wait_for_counts(out, process, timeout=300.0):
    end = time.monotonic() + timeout
    while time.monotonic() < end and process.poll() is None:
        if (out / "counts").exists() and any((out / "counts").glob("*.parquet")):
            return
        time.sleep(0.1)
    pytest.fail(f"no counts came: {process.stderr.read() if process.stderr else ''}")


@pytest.mark.parametrize(
    "whole_group",
    [pytest.param(True, marks=pytest.mark.slow), pytest.param(False, marks=pytest.mark.long)],
)
def test_the_driver_killed_mid_run(digits_run, undisturbed, tmp_path, whole_group):
    out = tmp_path / "cert"
    process = start_command(digits_run, out)
    wait_for_counts(out, process)
    if whole_group:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    assert not (out / "certificates.parquet").exists()
    again = start_command(digits_run, out)
    _, errors = again.communicate(timeout=400)
    assert again.returncode == 0, errors
    assert rows(out) == undisturbed
    check_counts(out)


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(digits_run, tmp_path):
    process = start_command(digits_run, tmp_path / "cert")
    wait_for_counts(tmp_path / "cert", process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "same --out continues" in errors and "Traceback" not in errors


@pytest.mark.long
def test_a_full_disk_loses_nothing(digits_run, undisturbed, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(44 * 1024))
        process = start_command(digits_run, disk / "cert")
        _, errors = process.communicate(timeout=400)
        assert process.returncode == 2, errors
        assert errors.splitlines()[-1].startswith("error: no space left on device")
        assert "Traceback" not in errors
        ballast.unlink()
        subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
        again = start_command(digits_run, disk / "cert")
        _, errors = again.communicate(timeout=400)
        assert again.returncode == 0, errors
        assert rows(disk / "cert") == undisturbed
        check_counts(disk / "cert")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_a_node_killed_mid_run(digits_run, tmp_path, undisturbed, no_ray):
    """Two nodes of one core each beside a head without; one is lost while it counts."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        cluster.wait_for_nodes()
        killed = threading.Event()

        def kill_node(snapshot):
            if snapshot["draws"] > 0 and not killed.is_set():
                killed.set()
                cluster.remove_node(nodes[1], allow_graceful=False)

        with session(cluster.address):
            run_certify(digits_run, tmp_path / "cert", kill_node)
        assert killed.is_set()
        assert rows(tmp_path / "cert") == undisturbed
        check_counts(tmp_path / "cert")
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.long
def test_a_fleet_grows_onto_a_node_that_joins_mid_run(digits_run, tmp_path, no_ray):
    """As an autoscaler would add it; the nodes differ in size."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    seen = set()

    def grow(snapshot):
        if snapshot["draws"] > 0 and not cluster.worker_nodes:
            cluster.add_node(num_cpus=2)
        seen.add(len(actor_processes()))
        if max(seen) >= 2 and snapshot["draws"] > 0:
            raise GrownError

    # More work than any machine does before it has grown; it is ended then.
    long = {"actors": 1, "most_actors": 3, "n": 5_000_000}
    try:
        with session(cluster.address), pytest.raises(GrownError):
            run_certify(digits_run, tmp_path / "cert", on_progress=grow, **long)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert 1 in seen and max(seen) >= 2
    stored = pq.read_table(tmp_path / "cert" / "counts").to_pylist()
    keys = [(row["index"], row["stage"], row["block"]) for row in stored]
    assert len(keys) == len(set(keys)) > 0


class GrownError(Exception):
    """The fleet has a second actor."""
