"""The evaluation of a run's network, measured on a machine and with the resources of an actor."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from rsray.certification.engine import evaluation as engine
from rsray.certification.engine.compiled import nominal_speed
from rsray.certification.engine.evaluation import Evaluation
from rsray.certification.source import ClassifierSource
from rsray.config import CertifyConfig
from rsray.core.hardware import dedicate_process, fastest_precision
from rsray.data import ImageSplit
from rsray.distributed.capacity import Capacity, Fleet
from rsray.distributed.gpu_probe import is_this_machine
from rsray.distributed.session import extend_search_path, search_path
from rsray.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Request:
    """What a machine needs to measure."""

    source: ClassifierSource
    split: ImageSplit
    config: CertifyConfig
    # Of all images together.
    draws: int
    # GPUs or CPU cores of the whole cluster.
    processors: float
    threads: int
    gpus: float
    search_path: tuple[str, ...]


def choose_evaluation(
    config: CertifyConfig,
    source: ClassifierSource,
    split: ImageSplit,
    num_images: int,
    fleet: Fleet,
    room: Capacity,
) -> Evaluation:
    """Return the fastest evaluation, measured here where actors run here, else by a Ray task."""
    import ray

    request = _Request(
        source=source,
        split=split,
        config=config,
        draws=num_images * config.n,
        # By the cluster's size, not by the number of actors: that must not change the result.
        processors=room.most_gpus if fleet.gpus > 0 else room.most_cpus,
        threads=fleet.threads,
        gpus=fleet.gpus,
        search_path=search_path(),
    )
    if fleet.gpus == 0 and is_this_machine():
        before = torch.get_num_threads()
        try:
            return _measure(request)
        finally:
            torch.set_num_threads(before)
    task = ray.remote(num_cpus=fleet.cpus, num_gpus=fleet.gpus)(_measure_there)
    try:
        chosen, warnings = ray.get(task.remote(request))
    except ray.exceptions.RayTaskError as problem:
        if isinstance(problem.cause, UserError):
            raise problem.cause from None
        raise
    for warning in warnings:
        log.warning("%s", warning)
    return chosen


def _measure_there(request: _Request) -> tuple[Evaluation, list[str]]:
    """Return the evaluation, and what was warned of: nobody reads the log of a task."""
    extend_search_path(request.search_path)
    with _kept_warnings() as warnings:
        return _measure(request), warnings


@contextmanager
def _kept_warnings() -> Iterator[list[str]]:
    """Give the list that the warnings of rsray go to, in place of the log."""
    kept: list[str] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.append(record.getMessage())

    keeper, ours = Keeper(logging.WARNING), logging.getLogger("rsray")
    ours.addHandler(keeper)
    try:
        yield kept
    finally:
        ours.removeHandler(keeper)


def _measure(request: _Request) -> Evaluation:
    device = torch.device("cuda" if request.gpus > 0 else "cpu")
    dedicate_process(request.threads, gpus=request.gpus)
    model = request.source.build(request.split).to(device)
    shape = request.split.image_shape
    # An actor's, not the driver's.
    precision = fastest_precision(request.config.precision, device)
    speed = nominal_speed(model, shape, precision, device.type)
    chosen = engine.choose_evaluation(
        model,
        shape,
        precision=precision,
        device=device,
        compile=request.config.compile,
        work_seconds=request.draws / (speed * request.processors),
    )
    return replace(chosen, gpus=request.gpus or None)
