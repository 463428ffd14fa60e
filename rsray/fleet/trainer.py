"""Training on Ray Train: in this process for one local worker, a worker group otherwise."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rsray.config import TrainConfig
from rsray.core.hardware import available_cpus, default_device
from rsray.data import ImageSplit
from rsray.errors import UserError
from rsray.fleet.session import (
    cluster_cpus,
    cluster_gpus,
    extend_search_path,
    quiet_logs,
    search_path,
    session,
)
from rsray.storage import Folder
from rsray.training.loop import Progress, Team, Training
from rsray.training.metrics import read_metrics
from rsray.training.run import claim_run

FOLLOW_SECONDS = 1.0
MAX_FAILURES = 3  # a lost worker or node restarts the group from the last checkpoint
OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class Job:
    """What every worker is told; it travels to other nodes."""

    config: TrainConfig
    run: Folder
    search_path: tuple[str, ...]


def train(
    config: TrainConfig,
    run: Folder,
    split: ImageSplit,
    *,
    address: str | None = None,
    on_progress: OnProgress = lambda progress: None,
) -> bool:
    """Train a run to its end, from its last checkpoint; returns False if it was finished already.

    One worker without a cluster trains in this process (Ray Train's local mode: no start-up to
    pay). Several workers, or a cluster, train data-parallel in a Ray Train worker group; a lost
    worker restarts the group. Raises UserError when RUN belongs to another run.
    """
    device = default_device()
    if claim_run(run, config, split, device):
        return False
    with run.locked():
        if config.workers <= 1 and address is None and "RAY_ADDRESS" not in os.environ:
            _fit_here(config, run, device, on_progress)
        else:
            with session(address, dashboard=True):
                _fit_group(config, run, on_progress)
    return True


def _fit_here(
    config: TrainConfig, run: Folder, device: torch.device, on_progress: OnProgress
) -> None:
    quiet_logs()
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    torch.set_num_threads(available_cpus())
    failure: list[BaseException] = []

    def loop() -> None:
        try:
            Training(config, run, device, on_progress=on_progress).run_epochs(_report)
        except BaseException as problem:
            failure.append(problem)
            raise

    try:
        TorchTrainer(loop, scaling_config=ScalingConfig(num_workers=0)).fit()
    except Exception:
        raise failure[0] if failure else _unknown() from None


def _unknown() -> RuntimeError:
    return RuntimeError("Ray Train failed without saying why; see its log")


def _report(row: dict[str, Any]) -> None:
    import ray.train

    ray.train.report(row)


def _fit_group(config: TrainConfig, run: Folder, on_progress: OnProgress) -> None:
    quiet_logs()
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    workers = max(1, config.workers)
    gpus = (
        config.gpus_per_worker if config.gpus_per_worker is not None else float(cluster_gpus() > 0)
    )
    _check_room(workers, gpus)
    resources = {"CPU": max(1, cluster_cpus() // workers)} if not gpus else {"GPU": gpus, "CPU": 1}
    name = f".ray-train-{uuid.uuid4().hex[:8]}"
    trainer = TorchTrainer(
        _worker_loop,
        train_loop_config={"job": Job(config, run, search_path())},
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=gpus > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(run),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
        ),
    )
    try:
        with _followed(run, config.epochs, on_progress):
            trainer.fit()
    except TrainingFailedError as problem:
        raise _cause(problem) from problem
    finally:
        run.delete(name)


@contextmanager
def _followed(run: Folder, epochs: int, on_progress: OnProgress) -> Iterator[None]:
    """Show each epoch that the workers add to metrics.jsonl."""
    stop, seen = threading.Event(), len(read_metrics(run))

    def show() -> None:
        nonlocal seen
        for row in read_metrics(run)[seen:]:
            seen += 1
            on_progress(Progress(row["epoch"], epochs, 1, 1, row))

    def follow() -> None:
        while not stop.wait(FOLLOW_SECONDS):
            show()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        show()


def _check_room(workers: int, gpus: float) -> None:
    have = cluster_gpus() if gpus else cluster_cpus()
    need = workers * (gpus or 1)
    if need > have:
        kind = "GPUs" if gpus else "CPU cores"
        raise UserError(
            f"workers is {workers}: that needs {need:g} {kind}, the cluster has {have:g}"
        )


def _worker_loop(arguments: dict[str, Any]) -> None:
    """Run on every worker of the group."""
    import ray.train
    import ray.train.torch

    job: Job = arguments["job"]
    extend_search_path(job.search_path)
    context = ray.train.get_context()
    world = context.get_world_size()
    team = Team(context.get_world_rank(), world, _wrap(world), _sum_over(world))
    device = ray.train.torch.get_device()
    Training(job.config, job.run, device, team).run_epochs(_report)


def _wrap(world: int) -> Callable[[nn.Module], nn.Module]:
    def wrap(model: nn.Module) -> nn.Module:
        import ray.train.torch

        if world == 1:
            return model
        wrapped: nn.Module = ray.train.torch.prepare_model(model, move_to_device=False)
        return wrapped

    return wrap


def _sum_over(world: int) -> Callable[[Tensor], Tensor]:
    def sum_over(tensor: Tensor) -> Tensor:
        if world > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    return sum_over


def _cause(problem: Exception) -> Exception:
    """Return the user's mistake behind a failed worker group, or the failure itself."""
    for failure in getattr(problem, "worker_failures", {}).values():
        error: BaseException | None = failure
        while error is not None:
            if isinstance(error, UserError):
                return error
            error = getattr(error, "cause", None) or error.__cause__
    return problem
