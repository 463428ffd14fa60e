"""What every process that counts holds: the network as it is evaluated, and how it counts."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import torch

from rsray.certification.counting.answers import Answer
from rsray.certification.counts.item import count_item
from rsray.certification.engine.compiled import CompileError, nominal_speed
from rsray.certification.engine.evaluation import Evaluation, choose_evaluation
from rsray.certification.engine.sampler import Sampler, ShortOfMemoryError
from rsray.certification.networks.source import ClassifierSource
from rsray.certification.request import CertificationRequest
from rsray.certification.sampling_plan import SamplingPlan
from rsray.certification.work_items import WorkItem
from rsray.core.hardware import dedicate_process, device_name, fastest_precision
from rsray.data import ImageSplit
from rsray.errors import UserError

# Images that failed one after the other: from then on it may be the node, not the images.
SLOW_DOWN_AFTER_FAILURES = 3
LONGEST_PAUSE_SECONDS = 10


@dataclass(frozen=True)
class CounterSettings:
    """What a counting process must know of its run."""

    source: ClassifierSource
    split: ImageSplit
    plan: SamplingPlan
    evaluation: Evaluation
    threads: int
    gpus: float = 0.0
    # The source of the network whose counts are reused, and its evaluation.
    earlier: tuple[ClassifierSource, Evaluation] | None = None


def measure_evaluation(
    request: CertificationRequest, *, processors: float, threads: int, gpus: float = 0.0
) -> Evaluation:
    """Return the fastest evaluation here, for a run that has so many GPUs or CPU cores in all.

    It is measured with the threads, and the part of a GPU, of a counting process.
    """
    config = request.config
    dedicate_process(threads, gpus)
    device = torch.device("cuda" if gpus > 0 else "cpu")
    model, shape = request.source.build(request.split).to(device), request.split.image_shape
    # Of the process that counts, not of the driver.
    precision = fastest_precision(config.precision, device)
    speed = nominal_speed(model, shape, precision, device.type)
    chosen = choose_evaluation(
        model,
        shape,
        precision=precision,
        device=device,
        compile=config.compile,
        work_seconds=len(request.selected.indices) * config.n / (speed * processors),
    )
    return replace(chosen, gpus=gpus or None)


def sampler_of_run(
    source: ClassifierSource, evaluation: Evaluation, split: ImageSplit, plan: SamplingPlan
) -> Sampler:
    """Return the engine with the network of a run; UserError where it cannot be compiled here."""
    network = source.build(split).to(torch.device(evaluation.device))
    try:
        return Sampler(
            network,
            evaluation,
            image_shape=split.image_shape,
            num_classes=split.num_classes,
            sigma=plan.sigma,
            seed=plan.seed,
            noise=plan.noise,
            inverse_temperature=plan.inverse_temperature,
        )
    except CompileError as problem:
        raise UserError(f"the run counts with a compiled network, and here {problem}") from problem


class Counter:
    """Holds the network and counts; one per GPU or CPU core."""

    def __init__(self, settings: CounterSettings) -> None:
        """Build the engine, and set this process up for counting."""
        dedicate_process(settings.threads, settings.gpus)
        self.settings, self.failures_in_a_row = settings, 0
        self.device_name = device_name(torch.device(settings.evaluation.device))
        split, plan = settings.split, settings.plan
        self.sampler = sampler_of_run(settings.source, settings.evaluation, split, plan)
        self.earlier = sampler_of_run(*settings.earlier, split, plan) if settings.earlier else None

    def count(self, items: Sequence[WorkItem]) -> Answer:
        """Return the counts of a task's items, and which of their images failed."""
        split, plan = self.settings.split, self.settings.plan
        tables: list[pa.Table] = [plan.counts_schema.empty_table()]
        failed: dict[int, str] = {}
        stop = None
        for item in items:
            try:
                image = split.images([item.index])[0]
                tables.append(count_item(self.sampler, image, item, plan, self.earlier))
                self.failures_in_a_row = 0
            except ShortOfMemoryError as problem:  # the process's trouble, not the image's
                stop = str(problem).splitlines()[0]
            except torch.AcceleratorError:  # nothing works in this process any more
                os._exit(1)
            except Exception as problem:  # one image's fault must not cost the others their draws
                failed[item.index] = f"{type(problem).__name__}: {problem}".splitlines()[0]
                self._pause()
        return Answer(pa.concat_tables(tables), self.device_name, failed, stop)

    def _pause(self) -> None:
        """Where all images fail at once, leave the work to other processes."""
        self.failures_in_a_row += 1
        more = self.failures_in_a_row - SLOW_DOWN_AFTER_FAILURES
        if more > 0:
            time.sleep(min(more, LONGEST_PAUSE_SECONDS))
