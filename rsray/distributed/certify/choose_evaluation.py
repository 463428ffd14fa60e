"""The evaluation of a run's network, measured on a machine and with the resources of an actor."""

from __future__ import annotations

import logging
from logging.handlers import BufferingHandler

import torch

from rsray.certification.counting.counter import measure_evaluation
from rsray.certification.engine.evaluation import Evaluation
from rsray.certification.request import CertificationRequest
from rsray.distributed.capacity import Capacity, FleetSize
from rsray.distributed.gpu_probe import is_this_machine
from rsray.distributed.session import extend_search_path, search_path
from rsray.errors import UserError

log = logging.getLogger(__name__)
# A buffer of so many is emptied: far more than measuring says.
MOST_WARNINGS = 1000


def choose_evaluation(
    request: CertificationRequest, fleet: FleetSize, room: Capacity
) -> Evaluation:
    """Return the fastest evaluation, measured here where actors run here, else by a Ray task."""
    import ray

    # By the cluster's size, not by the number of actors: that must not change the result.
    processors = room.most_gpus if fleet.gpus > 0 else room.most_cpus
    if fleet.gpus == 0 and is_this_machine():
        return evaluation_of_this_machine(request, fleet, processors)
    task = ray.remote(num_cpus=fleet.cpus, num_gpus=fleet.gpus)(_measure_there)
    request = request._replace(earlier=None)
    try:
        chosen, warnings = ray.get(task.remote(request, fleet, processors, search_path()))
    except ray.exceptions.RayTaskError as problem:
        if isinstance(problem.cause, UserError):
            raise problem.cause from None
        raise
    for warning in warnings:
        log.warning("%s", warning)
    return chosen


def evaluation_of_this_machine(
    request: CertificationRequest, fleet: FleetSize, processors: float
) -> Evaluation:
    """Return the same, measured in this process, which keeps its number of threads."""
    before = torch.get_num_threads()
    try:
        return measure_evaluation(request, processors=processors, threads=fleet.threads)
    finally:
        torch.set_num_threads(before)


def _measure_there(
    request: CertificationRequest, fleet: FleetSize, processors: float, path: tuple[str, ...]
) -> tuple[Evaluation, list[str]]:
    """Return the evaluation, and what was warned of: nobody reads the log of a task."""
    extend_search_path(path)
    warnings, ours = BufferingHandler(MOST_WARNINGS), logging.getLogger("rsray")
    warnings.setLevel(logging.WARNING)
    ours.addHandler(warnings)
    try:
        chosen = measure_evaluation(
            request, processors=processors, threads=fleet.threads, gpus=fleet.gpus
        )
    finally:
        ours.removeHandler(warnings)
    return chosen, [record.getMessage() for record in warnings.buffer]
