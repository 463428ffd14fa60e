"""Workers and nodes of a training are killed; its loss curve must not show it."""

import os
import signal
import threading
import time

import pytest
import torch
from processes import titled
from safetensors.torch import load_file

from rsray.distributed.session import session
from rsray.distributed.train import trainer
from rsray.distributed.train.trainer import train
from rsray.presets import train_config
from rsray.storage import Place
from rsray.training.loop import Training
from rsray.training.run_folder.checkpoint import latest_position
from rsray.training.run_folder.metrics import read_metrics
from rsray.training.run_folder.run import open_training_split

EPOCHS = 12
pytestmark = pytest.mark.long


def config(**changes):
    """LeNet has no batch norm: what it learns does not depend on how a batch is split."""
    settings = {
        "dataset": "digits", "model": "lenet", "objective": "gaussian", "epochs": EPOCHS, "lr": 0.02,
        "num_draws": 16, "batch_size": 64, "precision": "fp32", "lr_drops": [9], "limit": 640,
    }  # fmt: skip
    return train_config({**settings, **changes})


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """See losses soon: epochs here are tenths of a second."""
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    monkeypatch.setattr(trainer, "FOLLOW_SECONDS", 0.1)


@pytest.fixture(scope="module")
def undisturbed():
    """The losses and weights of one worker, in this process, with nothing written."""
    rows, training = [], Training(config(), None, torch.device("cpu"))
    training.run_epochs(lambda row: rows.append(row))
    return [row["loss"] for row in rows], training.model.state_dict()


def check(run, undisturbed):
    losses, weights = undisturbed
    rows = read_metrics(Place.of(run))
    assert [row["epoch"] for row in rows] == list(range(EPOCHS))
    assert [row["loss"] for row in rows] == pytest.approx(losses, abs=1e-4)
    found = load_file(run / "model.safetensors")
    assert all((found[key] - weights[key]).abs().max() < 1e-3 for key in found)


def training_workers():
    """Processes of Ray Train's workers (not of the controller)."""
    return titled("ray::", "TrainWorker")


class Once:
    """Calls `strike` when an epoch is reported, the second one, and remembers what it returned."""

    def __init__(self, strike, after=1):
        self.strike, self.after, self.struck, self.seen = strike, after, None, []

    def __call__(self, progress):
        self.seen.append(progress.epoch)
        if self.struck is None and progress.epoch >= self.after:
            self.struck = self.strike()


def test_a_worker_killed_mid_run(undisturbed, tmp_path):
    before = set(training_workers())

    def strike():
        mine = [pid for pid in training_workers() if pid not in before]
        assert len(mine) == 2
        os.kill(mine[-1], signal.SIGKILL)
        return mine

    killer = Once(strike)
    settings = config(workers=2)
    train(settings, Place.of(tmp_path / "run"), open_training_split(settings), on_progress=killer)
    assert killer.struck and killer.seen == list(range(EPOCHS))
    check(tmp_path / "run", undisturbed)


def test_a_node_killed_mid_run_leaves_fewer_workers(undisturbed, tmp_path, no_ray):
    """Elastic: two nodes of one core each beside a head without; one is lost for good."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    killed = threading.Event()
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        cluster.wait_for_nodes()

        def strike():
            cluster.remove_node(nodes[1], allow_graceful=False)
            killed.set()
            return True

        settings = config(workers="1-2")
        run, split = Place.of(tmp_path / "run"), open_training_split(settings)
        with session(cluster.address):
            train(settings, run, split, address=cluster.address, on_progress=Once(strike))
        assert killed.is_set()
        check(tmp_path / "run", undisturbed)
    finally:
        ray.shutdown()
        cluster.shutdown()


SLEEPY = """
import time
from rsray.models.lenet import LeNet

class Sleepy(LeNet):
    def forward(self, images):
        time.sleep(0.5)
        return super().forward(images)

def make(image_shape, num_classes):
    return Sleepy(image_shape, num_classes)
"""


def take_away(nodes, seconds):
    """Tell Ray what a cloud tells before it takes a spot machine: the one that works."""
    import ray
    from ray._private.state import available_resources_per_node
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason

    free = available_resources_per_node()
    (node,) = [each for each in nodes if free[each.node_id].get("CPU", 0) < 1]
    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline = int((time.time() + seconds) * 1000)
    client = ray._private.worker.global_worker.gcs_client
    accepted, why = client.drain_node(node.node_id, reason, "spot", deadline)
    assert accepted, why


def test_a_machine_that_is_taken_away_with_a_notice(tmp_path, no_ray, monkeypatch):
    """The notice makes a checkpoint inside the epoch; another machine goes on at its step."""
    import ray
    from ray.cluster_utils import Cluster

    (tmp_path / "sleepy.py").write_text(SLEEPY)
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = config(model="sleepy:make", batch_size=16, epochs=2, checkpoint_minutes=0)
    run, split = Place.of(tmp_path / "run"), open_training_split(settings)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        cluster.wait_for_nodes()

        def strike():
            take_away(nodes, seconds=15)
            end = time.monotonic() + 14
            while time.monotonic() < end and not latest_position(run).step:
                time.sleep(0.1)
            return latest_position(run)

        killer = Once(strike, after=0)
        with session(cluster.address):
            train(settings, run, split, address=cluster.address, on_progress=killer)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert killer.struck.step > 0, "a checkpoint inside an epoch, before the machine went"
    monkeypatch.setattr("sleepy.time.sleep", lambda seconds: None)
    rows, training = [], Training(settings, None, torch.device("cpu"))
    training.run_epochs(rows.append)
    found = read_metrics(run)
    assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in rows], abs=1e-5)
    weights = load_file(tmp_path / "run" / "model.safetensors")
    for key, value in training.model.state_dict().items():
        torch.testing.assert_close(weights[key], value)


def test_a_run_on_an_object_store_goes_on_after_a_kill(bucket_of_options, undisturbed, tmp_path):
    """Two workers that share no disk for the run: checkpoints and figures are on S3 alone."""
    where = bucket_of_options.uri("runs/a").replace("s3://", "s3://test:test@")
    before, settings = set(training_workers()), config(workers=2)

    def strike():
        mine = [pid for pid in training_workers() if pid not in before]
        os.kill(mine[0], signal.SIGKILL)
        return mine

    killer = Once(strike)
    train(settings, Place.of(where), open_training_split(settings), on_progress=killer)
    assert len(killer.struck) == 2 and killer.seen == list(range(EPOCHS))
    for key in ("metrics.jsonl", "model.safetensors"):
        (tmp_path / key).write_bytes(bucket_of_options.get(f"runs/a/{key}"))
    check(tmp_path, undisturbed)
    left = bucket_of_options.keys("runs/a/")
    assert not [key for key in left if ".ray-train" in key]
    assert [key for key in left if key.endswith(".pt")] == [
        f"runs/a/checkpoints/epoch-{epoch:05d}.pt" for epoch in (EPOCHS - 1, EPOCHS)
    ]
