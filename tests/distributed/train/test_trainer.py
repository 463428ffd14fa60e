import inspect
import json

import pytest
import torch
from ray.exceptions import RayTaskError
from ray.train import ControllerError
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError
from safetensors.torch import load_file
from torch.nn.parallel import DistributedDataParallel

import rsray.distributed
from rsray.distributed.capacity import Capacity
from rsray.distributed.train import group, worker
from rsray.distributed.train.trainer import train
from rsray.distributed.train.training_run import TrainingRun
from rsray.distributed.train.worker import torch_config, worker_environment
from rsray.errors import UserError
from rsray.presets import train_config
from rsray.storage import Place
from rsray.training.opened_run import Team
from rsray.training.run_folder.run import open_training_split


def small(**flat):
    settings = {"dataset": "digits", "limit": 320, "epochs": 3, "num_draws": 4, "precision": "fp32"}
    return train_config({**settings, **flat})


def losses(run):
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_one_worker_trains_in_this_process_and_a_finished_run_stays(tmp_path):
    config = small()
    seen = []
    split = open_training_split(config)
    assert train(config, Place.of(tmp_path / "run"), split, on_progress=seen.append)
    assert [progress.epoch_figures["epoch"] for progress in seen if progress.epoch_figures] == [
        0,
        1,
        2,
    ]
    before = (tmp_path / "run/model.safetensors").read_bytes()
    assert not train(config, Place.of(tmp_path / "run"), split)
    assert (tmp_path / "run/model.safetensors").read_bytes() == before


def test_a_fault_of_the_users_comes_out_as_it_is(tmp_path):
    config = small(lr=1e30, objective="gaussian")
    with pytest.raises(UserError, match="loss became"):
        train(config, Place.of(tmp_path / "run"), open_training_split(config))


def test_a_gpu_that_is_asked_for_and_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    config = small(gpus_per_worker=1)
    with pytest.raises(UserError, match="gpus-per-worker is 1, but no GPU is here"):
        train(config, Place.of(tmp_path / "run"), open_training_split(config))
    assert not (tmp_path / "run").exists()


def test_a_preempted_group_is_followed_by_another_however_often(tmp_path, monkeypatch):
    from ray.train import PreemptionError, PreemptionInfo

    config, starts = small(workers=2), []
    run = TrainingRun(config, Place.of(tmp_path), torch.device("cpu"), False, False, 0.0)

    def preempted(run):
        starts.append(run)
        if len(starts) < 9:
            raise PreemptionError(PreemptionInfo(None, {"node": [0]}))

    monkeypatch.setattr(group, "capacity", lambda: Capacity(((2.0, 0.0),), 2.0, 0.0))
    monkeypatch.setattr(group, "_train_in_group", preempted)
    group.train_in_groups(run)
    assert len(starts) == 9


def raised_in_setup(error):
    return ControllerError(RayTaskError("setup", f'File "x.py", line 1\n{error!r}', error))


@pytest.mark.parametrize(
    ("problem", "starts"),
    [
        (raised_in_setup(RuntimeError("NCCL WARN")), 1),
        (raised_in_setup(torch.distributed.DistBackendError("NCCL error")), 1),
        (raised_in_setup(torch.distributed.DistNetworkError("The client socket has timed out")), 4),
        (raised_in_setup(RuntimeError("[gloo/transport/tcp] Connection closed by peer")), 4),
        (ControllerError(WorkerGroupStartupFailedError("a node died")), 4),
    ],
)
def test_a_group_that_cannot_be_set_up_is_not_retried(tmp_path, monkeypatch, problem, starts):
    config, made = small(workers=2), []
    run = TrainingRun(config, Place.of(tmp_path), torch.device("cpu"), False, False, 0.0)

    def fail(run):
        made.append(run)
        raise problem

    monkeypatch.setattr(group, "capacity", lambda: Capacity(((2.0, 0.0),), 2.0, 0.0))
    monkeypatch.setattr(group, "_train_in_group", fail)
    kind = UserError if starts == 1 else Exception
    with pytest.raises(kind) as raised:
        group.train_in_groups(run)
    assert len(made) == starts
    if starts == 1:
        assert "cannot be set up" in str(raised.value) and "NCCL" in str(raised.value)
        assert "\n" not in str(raised.value)


def test_groups_on_gpus_end_when_nccl_hangs(monkeypatch):
    assert torch_config(0.0).timeout_s == torch_config(1.0).timeout_s == 600
    assert worker_environment(0.0) == worker_environment(0.5) == {}
    monkeypatch.setenv("TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC", "77")
    found = worker_environment(1.0)["env_vars"]
    assert found["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == "1"
    assert rsray.distributed.ENVIRONMENT["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] == "600"
    assert found["TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC"] == "77"
    assert found["TORCH_NCCL_ENABLE_MONITORING"] == "1"


def test_gradients_are_not_copied_before_they_are_summed(monkeypatch):
    given, network = [], torch.nn.Linear(1, 1)

    def prepare(model, **settings):
        given.append(settings["parallel_strategy_kwargs"])
        return model

    monkeypatch.setattr("ray.train.torch.prepare_model", prepare)
    assert Team().wrap(network) is worker._wrap(network) is network
    (settings,) = given
    assert settings["gradient_as_bucket_view"] is True
    # DDP takes them.
    assert settings.keys() <= inspect.signature(DistributedDataParallel).parameters.keys()


@pytest.mark.slow
def test_two_workers_train_as_one_does(tmp_path):
    split = open_training_split(small())
    train(small(), Place.of(tmp_path / "one"), split)
    seen = []
    train(small(workers=2), Place.of(tmp_path / "two"), split, on_progress=seen.append)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-4)
    assert [progress.epoch_figures["epoch"] for progress in seen] == [0, 1, 2]
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for key in one:
        assert two[key].sub(one[key]).abs().max() < 1e-3
    assert [p.name for p in (tmp_path / "two").iterdir() if p.name.startswith(".ray")] == []


@pytest.mark.long
def test_two_workers_without_memory_for_their_images_go_on_in_groups(tmp_path, monkeypatch):
    (tmp_path / "cramped.py").write_text(
        "import torch\n"
        "class Cramped(torch.nn.Linear):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__(64, num_classes)\n"
        "    def forward(self, images):\n"
        "        if self.training and len(images) > 20 * 4:\n"
        "            raise torch.OutOfMemoryError('CUDA out of memory')\n"
        "        return super().forward(images.flatten(1))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = small(model="cramped:Cramped", workers=2, epochs=2)  # 32 images a worker, 4 draws
    train(config, Place.of(tmp_path / "two"), open_training_split(config))
    alone = config.model_copy(update={"workers": 1})
    train(alone, Place.of(tmp_path / "one"), open_training_split(config))
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-4)
    assert (tmp_path / "two" / ".group-size").read_text() == "16"


def test_workers_may_be_a_range():
    config = small(workers="2-8")
    assert (config.workers, config.most_workers) == (2, 8)
    assert small(workers="3").workers == small(workers=3).workers == 3
    assert train_config({"workers": "4"}, base=config.model_dump()).most_workers is None
    assert config.differences(small().model_dump(mode="json")) == [], "a run may go on with others"
    for wrong in ("many", "4-", "-4", "4-2", "0-2", "1-2-3"):
        with pytest.raises(UserError, match="workers is .*must"):
            small(workers=wrong)


def test_more_workers_than_cores_are_refused(ray_session, tmp_path):
    config = small(workers=40)
    with pytest.raises(UserError, match="workers is 40: that needs 40 CPU cores"):
        train(config, Place.of(tmp_path / "run"), open_training_split(config))
