"""Training on Ray Train: in this process for one local worker, a worker group otherwise."""

from __future__ import annotations

import gc
import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from rsray.config import TrainConfig
from rsray.core.hardware import available_cpus, dedicate_process, default_device
from rsray.data import DATASETS, ImageSplit, absolute_root
from rsray.distributed.capacity import capacity, cores_each
from rsray.distributed.session import (
    cluster_cpus,
    cluster_gpus,
    quiet_logs,
    search_path,
    session,
)
from rsray.distributed.train.worker import Job, torch_config, worker_loop
from rsray.errors import UserError
from rsray.storage import Place, one_line, open_filesystem
from rsray.training.checkpoint import latest_epoch
from rsray.training.feeds import is_streamed
from rsray.training.loop import Progress, Training
from rsray.training.metrics import read_metrics
from rsray.training.run import claim_run
from rsray.training.step import MemoryShortError

log = logging.getLogger(__name__)
FOLLOW_SECONDS = 1.0
MAX_FAILURES = 3  # starts of a worker group, one after the other, that finish no epoch
SHOWN = 200  # characters of a lost worker's failure
READING_SHARE = 0.25  # of a worker's cores, for the tasks that read images for it
OnProgress = Callable[[Progress], None]


def train(
    config: TrainConfig,
    run: Place,
    split: ImageSplit,
    *,
    address: str | None = None,
    on_progress: OnProgress = lambda progress: None,
) -> bool:
    """Train a run to its end, from its last checkpoint; returns False if it was finished already.

    One worker without a cluster trains in this process (Ray Train's local mode: no start-up to
    pay). Several workers, a cluster, or images that do not stay in memory need a Ray Train worker
    group, which trains data-parallel; a lost worker or node restarts it from the last checkpoint.
    Raises UserError when RUN belongs to another run.
    """
    device = torch.device("cpu") if config.gpus_per_worker == 0 else default_device()
    is_here = not (address or "RAY_ADDRESS" in os.environ or _needs_group(config, split))
    if is_here and config.gpus_per_worker and device.type == "cpu":
        raise UserError(f"gpus-per-worker is {config.gpus_per_worker:g}, but no GPU is here")
    config = config.model_copy(
        update={"data_root": absolute_root(config.dataset, config.data_root)}
    )
    if claim_run(run, config, split, device):
        return False
    with run.locked():
        if is_here:
            _fit_here(config, run, device, on_progress)
        else:
            with session(address, dashboard=True):
                with _followed(run, config.epochs, on_progress):
                    _fit_group(config, run, is_streamed_run(config, split))
    return True


def _needs_group(config: TrainConfig, split: ImageSplit) -> bool:
    return max(config.workers, config.most_workers or 1) > 1 or is_streamed_run(config, split)


def is_streamed_run(config: TrainConfig, split: ImageSplit) -> bool:
    """Tell whether the training images are read while the training goes on."""
    augmentation = config.augmentation or DATASETS[config.dataset].augmentation
    return is_streamed(split, min(len(split), config.limit or len(split)), augmentation)


def _fit_here(
    config: TrainConfig, run: Place, device: torch.device, on_progress: OnProgress
) -> None:
    quiet_logs()
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    dedicate_process(available_cpus(), config.gpus_per_worker or 0.0)
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
    finally:
        if device.type == "cuda":  # this process lives on, and actors want the memory
            gc.collect()
            torch.cuda.empty_cache()


def _unknown() -> RuntimeError:
    return RuntimeError("Ray Train failed without saying why; see its log")


def _report(row: dict[str, Any]) -> None:
    import ray.train

    ray.train.report(row)


def _fit_group(config: TrainConfig, run: Place, is_streamed: bool) -> None:
    """Train in worker groups until the run is done, each from the checkpoint the last one left.

    Raises the user's mistake behind a failure at once, any other failure after MAX_FAILURES groups
    that finished no epoch.
    """
    quiet_logs()
    from ray.train import TrainingFailedError

    failures = 0
    while True:
        before = latest_epoch(run)
        try:
            _fit_group_once(config, run, is_streamed)
            return
        except TrainingFailedError as problem:
            cause = cause_of(problem)
            if isinstance(cause, MemoryShortError):  # halved each time, so this comes to an end
                log.warning("%s: beginning anew after %d epochs", cause, latest_epoch(run))
                continue
            failures = 1 if latest_epoch(run) > before else failures + 1
            most = MAX_FAILURES if is_machines_fault(cause) else 1  # a peer's loss may look so
            if isinstance(cause, UserError) or failures > most:
                raise cause from problem
            log.warning(
                "lost a worker (%s): going on from the checkpoint after %d epochs",
                one_line(cause)[:SHOWN],
                latest_epoch(run),
            )


def _fit_group_once(config: TrainConfig, run: Place, is_streamed: bool) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    workers, most = max(1, config.workers), config.most_workers
    gpus = (
        config.gpus_per_worker if config.gpus_per_worker is not None else float(cluster_gpus() > 0)
    )
    _check_room(workers, gpus)
    cpus, reading_cpus = _cpus(most or workers, gpus, is_streamed)
    num_workers: Any = workers if most is None else (workers, most)
    name = f".ray-train-{uuid.uuid4().hex[:8]}"
    filesystem, path = open_filesystem(run.uri)
    trainer = TorchTrainer(
        worker_loop,
        train_loop_config={"job": Job(config, run, search_path(), reading_cpus, gpus)},
        torch_config=torch_config(gpus),
        scaling_config=ScalingConfig(
            num_workers=num_workers,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": cpus, **({"GPU": gpus} if gpus else {})},
        ),
        run_config=RunConfig(
            name=name,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=0),  # see _fit_group
        ),
    )
    try:
        trainer.fit()
    finally:
        run.delete(name)


def _cpus(workers: int, gpus: float, is_streamed: bool) -> tuple[float, float]:
    """Return the CPU cores of a worker, and of a task that reads images for it."""
    if gpus:
        return 1.0, 1.0
    cores = cores_each((cpus for cpus, _ in capacity().nodes), workers)
    if not is_streamed:
        return float(cores), 1.0
    if cores == 1:
        return 0.5, 0.5
    return float(cores - max(1, int(cores * READING_SHARE))), 1.0


@contextmanager
def _followed(run: Place, epochs: int, on_progress: OnProgress) -> Iterator[None]:
    """Show each epoch that the workers add to metrics.jsonl."""
    stop, seen = threading.Event(), latest_epoch(run)  # a line beyond it is of an epoch to repeat

    def show() -> None:
        nonlocal seen
        for row in read_metrics(run)[seen:]:
            seen += 1
            on_progress(Progress(row["epoch"], epochs, 1, 1, row))

    def follow() -> None:
        while not stop.wait(FOLLOW_SECONDS):
            with suppress(UserError):  # storage that cannot be read now: the next look shows it
                show()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        with suppress(UserError):
            show()


def _check_room(workers: int, gpus: float) -> None:
    have = cluster_gpus() if gpus else cluster_cpus()
    need = workers * (gpus or 1)
    if need > have:
        kind = "GPUs" if gpus else "CPU cores"
        raise UserError(
            f"workers is {workers}: that needs {need:g} {kind}, the cluster has {have:g}"
        )


def cause_of(problem: Exception) -> Exception:
    """Return the user's mistake, or short memory, behind a failed worker group, or the failure."""
    for failure in getattr(problem, "worker_failures", {}).values():
        error: BaseException | None = failure
        while error is not None:
            if isinstance(error, UserError | MemoryShortError):
                return error
            error = getattr(error, "cause", None) or error.__cause__
    return problem


def is_machines_fault(problem: Exception) -> bool:
    """Tell whether training failed through a lost worker or node, or a GPU in an error state.

    Whatever a worker's own code raises is the setting's fault, but for CUDA errors: after one of
    them, a lack of memory apart, every later call in the same process fails too.
    """
    from ray.exceptions import RayError
    from ray.train import TrainingFailedError, WorkerGroupError

    if isinstance(problem, WorkerGroupError):
        failures = problem.worker_failures.values()
        return any(is_machines_fault(failure) for failure in failures)
    if isinstance(problem, TrainingFailedError | RayError):
        return True
    if type(problem).__module__.startswith("ray.train."):  # a worker's health check
        return True
    text = str(problem)
    is_cuda = isinstance(problem, torch.AcceleratorError) or "CUDA error" in text
    return is_cuda and "out of memory" not in text
