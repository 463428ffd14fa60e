"""What every worker of a Ray Train group runs, and how workers share a model."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rsray.core.hardware import dedicate_process
from rsray.distributed.session import extend_search_path
from rsray.distributed.train.feed import RayFeed
from rsray.distributed.train.step_record import StepRecord
from rsray.distributed.train.training_run import TrainingRun
from rsray.training.loop import Training
from rsray.training.opened_run import Team

# Workers that wait longer for the others are taken for lost.
HANG_SECONDS = 600
NCCL_USUAL = {
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
    "TORCH_NCCL_ENABLE_MONITORING": "1",
    "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": str(HANG_SECONDS),
}


@dataclass(frozen=True)
class WorkerJob:
    """What every worker is told; it travels to other nodes."""

    run: TrainingRun
    search_path: tuple[str, ...]
    # CPU cores of a task that reads images.
    reading_cpus: float


def train_as_worker(arguments: dict[str, Any]) -> None:
    """Run on every worker of the group."""
    import ray.train

    job: WorkerJob = arguments["job"]
    run = job.run
    team, device = join_team(job.search_path, run.gpus)
    feed = partial(RayFeed, cpus=job.reading_cpus)
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
    world = context.get_world_size()
    team = Team(
        context.get_world_rank(),
        world,
        _wrap_for(world),
        _sum_over(world),
        context.get_local_world_size(),
    )
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


def _wrap_for(world: int) -> Callable[[nn.Module], nn.Module]:
    """Return how a member of a group of `world` workers wraps its model: in DDP, unless alone."""

    def wrap(model: nn.Module) -> nn.Module:
        import ray.train.torch

        if world == 1:
            return model
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

    return wrap


def _sum_over(world: int) -> Callable[[Tensor], Tensor]:
    """Return the sum of a tensor over a group of `world` workers, in place."""

    def sum_over(tensor: Tensor) -> Tensor:
        if world > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    return sum_over
