"""Train in a Ray Train worker group; when it is lost, in another one from the last checkpoint."""

from __future__ import annotations

import logging
import time
import uuid

from rsray.distributed.capacity import capacity, check_room, cores_each
from rsray.distributed.gpu_probe import check_gpus
from rsray.distributed.session import quiet_logs, search_path
from rsray.distributed.train.failures import (
    cause_of,
    end_of_reason,
    is_machines_fault,
    refuse_failed_setup,
)
from rsray.distributed.train.feed import share_with_reading
from rsray.distributed.train.training_run import TrainingRun
from rsray.distributed.train.worker import make_trainer, train_as_worker, worker_resources
from rsray.errors import UserError
from rsray.training.run_folder.checkpoint import latest_position
from rsray.training.step import MemoryShortError

log = logging.getLogger(__name__)
# Starts of a worker group, one after the other, that make no checkpoint.
MOST_FAILED_STARTS = 3
# For the nodes of a group: before the user reads of it, and between two looks.
SAY_AFTER_SECONDS, LOOK_EVERY_SECONDS = 20.0, 2.0


def train_in_groups(run: TrainingRun) -> None:
    """Train in worker groups until the run is done, each from the checkpoint the last one left.

    Raises the user's mistake behind a failure at once, and UserError for workers that cannot be set
    up; any other failure after MOST_FAILED_STARTS groups that made no checkpoint.
    """
    quiet_logs()
    from ray.train import PreemptionError, TrainingFailedError

    check_room(capacity(), max(1, run.config.workers), run.gpus)
    check_gpus(run.gpus)
    failed_starts = 0
    while True:
        before = latest_position(run.place)
        try:
            _train_in_group(run)
            return
        except TrainingFailedError as problem:
            cause = cause_of(problem)
            refuse_failed_setup(cause)
            # The groups of images are halved each time, so this comes to an end.
            if isinstance(cause, MemoryShortError):
                log.warning("%s: beginning anew after %s", cause, latest_position(run.place))
                continue
            is_idle = latest_position(run.place) == before and not isinstance(
                cause, PreemptionError
            )
            failed_starts = failed_starts + 1 if is_idle else 1
            # The loss of a peer may look like a fault of the worker's own code: once.
            most = MOST_FAILED_STARTS if is_machines_fault(cause) else 1
            if isinstance(cause, UserError) or failed_starts > most:
                raise cause from problem
            log.warning(
                "lost a worker (%s): going on from the checkpoint after %s",
                end_of_reason(cause),
                latest_position(run.place),
            )


def _train_in_group(run: TrainingRun) -> None:
    from ray.train import FailureConfig

    workers, most = max(1, run.config.workers), run.config.most_workers
    # Of a worker, and of a task that reads images for it.
    cpus, reading_cpus = 1.0, 1.0
    if not run.gpus:
        cpus = float(cores_each((cores for cores, _ in capacity().nodes), most or workers))
        if run.is_streamed:
            cpus, reading_cpus = share_with_reading(cpus, run.gpus)
    resources = worker_resources(cpus, run.gpus)
    _wait_for_room(workers, resources)
    name = f".ray-train-{uuid.uuid4().hex[:8]}"
    trainer = make_trainer(
        train_as_worker,
        {"run": run, "search_path": search_path(), "reading_cpus": reading_cpus},
        workers if most is None else (workers, most),
        resources,
        run.place,
        name=name,
        # train_in_groups starts another group where that is worth it.
        failure_config=FailureConfig(
            max_failures=0, controller_failure_limit=0, max_preemption_failures=0
        ),  # type: ignore[call-arg]
    )
    # Its own answer to Ctrl-C ends the process with status 0.
    trainer._register_sigint_handler = lambda controller: None
    try:
        trainer.fit()
    finally:
        run.place.delete(name)


def _wait_for_room(workers: int, resources: dict[str, float]) -> None:
    """Wait for the nodes of a group: an autoscaler may start them, or another's work end."""
    from ray.util.placement_group import placement_group, remove_placement_group

    room, started = placement_group([resources] * workers), time.monotonic()
    is_said = False
    try:
        while not room.wait(LOOK_EVERY_SECONDS):
            if not is_said and time.monotonic() - started > SAY_AFTER_SECONDS:
                each = ", ".join(f"{amount:g} {kind}" for kind, amount in resources.items())
                log.warning("waiting for room for %d workers of %s each", workers, each)
                is_said = True
    finally:
        remove_placement_group(room)
