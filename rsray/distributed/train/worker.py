"""What a Ray Train group is made of, what its workers run, and how they share a model."""

from __future__ import annotations

import inspect
import json
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rsray.core.hardware import dedicate_process
from rsray.distributed.session import extend_search_path
from rsray.distributed.train.feed import RayFeed
from rsray.distributed.train.training_run import TrainingRun
from rsray.storage import Place, open_filesystem
from rsray.training.loop import Progress, Training
from rsray.training.opened_run import Team

# Workers that wait longer for the others are taken for lost.
HANG_SECONDS = 600
NCCL_USUAL = {
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
    "TORCH_NCCL_ENABLE_MONITORING": "1",
    "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": str(HANG_SECONDS),
}
# Where in an epoch a run is, in a small file of RUN: its driver may be on another machine.
STEP_FILE = "step.json"
STEP_FIELDS = ("epoch", "epochs", "step", "steps", "draws", "is_weighing")
WRITE_STEP_EVERY_SECONDS = 20.0


def train_as_worker(told: dict[str, Any]) -> None:
    """Run on every worker of the group, with what `_train_in_group` (group.py) tells them."""
    import ray.train

    run: TrainingRun = told["run"]
    team, device = join_team(told["search_path"], run.gpus)
    feed = partial(RayFeed, cpus=told["reading_cpus"])
    tell = StepRecord(run.place) if team.rank == 0 else lambda progress: None
    training = Training(
        run.config,
        run.place,
        device,
        team,
        on_progress=tell,
        open_feed=feed,
        notice=ray.train.get_preemption_info,
    )
    training.run_epochs(ray.train.report)


class StepRecord:
    """Writes STEP_FILE from time to time; for the first worker of a group."""

    def __init__(self, run: Place) -> None:
        """Write into this RUN; nothing before a while has passed."""
        self.run, self.written = run, time.monotonic()

    def __call__(self, progress: Progress) -> None:
        """Write where training is, if it is time."""
        since = time.monotonic() - self.written
        if progress.epoch_figures or since < WRITE_STEP_EVERY_SECONDS:
            return
        place = {name: getattr(progress, name) for name in STEP_FIELDS}
        self.run.write(STEP_FILE, json.dumps(place).encode())
        self.written = time.monotonic()


def read_step(run: Place) -> Progress | None:
    """Return where STEP_FILE says that training is; None where there is none, or it is damaged."""
    if not run.exists(STEP_FILE):
        return None
    try:
        return Progress(**json.loads(run.read(STEP_FILE)))
    except (TypeError, ValueError):
        return None


def make_trainer(
    work: Callable[[dict[str, Any]], None],
    arguments: dict[str, Any],
    workers: int | tuple[int, int],
    resources: dict[str, float],
    place: Place,
    **settings: Any,
) -> Any:
    """Return the trainer of a group: workers with these resources each, Ray's files in `place`.

    `settings` are what else Ray's RunConfig is told.
    """
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    gpus, num_workers = resources.get("GPU", 0.0), cast(Any, workers)
    settings["worker_runtime_env"] = worker_environment(gpus)
    filesystem, path = open_filesystem(place.uri)
    return TorchTrainer(
        work,
        train_loop_config=arguments,
        torch_config=torch_config(gpus),
        scaling_config=ScalingConfig(
            num_workers=num_workers, use_gpu=gpus > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(storage_path=path, storage_filesystem=filesystem, **settings),
    )


def worker_resources(cpus: float, gpus: float) -> dict[str, float]:
    """Return what Ray reserves for a worker."""
    return {"CPU": cpus, **({"GPU": gpus} if gpus else {})}


def join_team(driver_path: tuple[str, ...], gpus: float) -> tuple[Team, torch.device]:
    """Return this worker's team and device; it finds the modules that the driver finds."""
    import ray.train
    import ray.train.torch

    extend_search_path(driver_path)
    dedicate_process(gpus=gpus)
    context = ray.train.get_context()
    world, here = context.get_world_size(), context.get_local_world_size()
    team = Team(workers_here=here)
    if world > 1:
        team = Team(context.get_world_rank(), world, _wrap, _sum_over, here)
    return team, ray.train.torch.get_device()


def torch_config(gpus: float) -> Any:
    """Return how workers of so many GPUs each talk: NCCL does not let two share a GPU."""
    from ray.train.torch import TorchConfig

    return TorchConfig(backend="gloo" if 0 < gpus < 1 else None, timeout_s=HANG_SECONDS)


def worker_environment(gpus: float) -> dict[str, Any]:
    """Return the runtime environment in which NCCL ends a worker that hangs; empty without GPUs.

    What the user has set on the driver stays.
    """
    if gpus < 1:
        return {}
    return {"env_vars": {key: os.environ.get(key, usual) for key, usual in NCCL_USUAL.items()}}


def _wrap(model: nn.Module) -> nn.Module:
    """Return the model as a member of a group trains it: in DDP."""
    import ray.train.torch

    # Batch norm's buffers are shared at the end of an epoch (Training). Shared in each forward
    # pass, they change under objectives that make two passes before the backward one.
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    wrapped: nn.Module = ray.train.torch.prepare_model(
        model,
        move_to_device=False,
        # Gradients are not copied into the buffers that are summed.
        parallel_strategy_kwargs={name: False, "gradient_as_bucket_view": True},
    )
    return wrapped


def _sum_over(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor over the group, in place."""
    torch.distributed.all_reduce(tensor)
    return tensor
