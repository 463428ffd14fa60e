"""The certification actor: holds the network and counts what a task names."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch

from rsray.certification.counts.item import count_item
from rsray.certification.engine.evaluation import Evaluation
from rsray.certification.engine.sampler import Sampler, ShortOfMemoryError
from rsray.certification.sampling_plan import SamplingPlan
from rsray.certification.source import ClassifierSource
from rsray.certification.work_items import WorkItem
from rsray.core.hardware import dedicate_process, device_name
from rsray.data import ImageSplit
from rsray.distributed.certify.answers import Answer
from rsray.distributed.session import extend_search_path

# Images that failed one after the other: from then on it may be the node, not the images.
SLOW_DOWN_AFTER_FAILURES = 3
LONGEST_PAUSE_SECONDS = 10


@dataclass(frozen=True)
class ActorSettings:
    """What the driver sends to each actor as it starts."""

    # A reference to a ClassifierSource in Ray's object store.
    source: Any
    split: ImageSplit
    plan: SamplingPlan
    evaluation: Evaluation
    noise: str
    threads: int
    gpus: float
    search_path: tuple[str, ...]
    # A reference to the source of the network whose counts are reused, and its evaluation.
    earlier: tuple[Any, Evaluation] | None = None


class CountingActor:
    """Holds the network and counts; one per GPU or CPU core."""

    def __init__(self, settings: ActorSettings) -> None:
        """Build the engine from what the driver sent."""
        import ray

        dedicate_process(settings.threads, settings.gpus)
        extend_search_path(settings.search_path)
        self.split, self.plan = settings.split, settings.plan
        self.failures_in_a_row = 0
        device = torch.device(settings.evaluation.device)
        self.device_name = device_name(device)
        self.noise = settings.noise
        self.sampler = self._sampler(ray.get(settings.source), settings.evaluation)
        self.earlier: Sampler | None = None
        if settings.earlier is not None:
            source, evaluation = settings.earlier
            self.earlier = self._sampler(ray.get(source), evaluation)

    def _sampler(self, source: ClassifierSource, evaluation: Evaluation) -> Sampler:
        return Sampler(
            source.build(self.split).to(torch.device(evaluation.device)),
            evaluation,
            image_shape=self.split.image_shape,
            num_classes=self.split.num_classes,
            sigma=self.plan.sigma,
            seed=self.plan.seed,
            noise=self.noise,
            inverse_temperature=self.plan.inverse_temperature,
        )

    def __call__(self, task: pa.Table) -> pa.Table:
        """Return the counts of a task's items, and which of their images failed, as an answer."""
        tables: list[pa.Table] = [self.plan.counts_schema.empty_table()]
        failed: dict[int, str] = {}
        stop = None
        for values in task.to_pylist():
            item = WorkItem(**values)
            try:
                image = self.split.images([item.index])[0]
                tables.append(count_item(self.sampler, image, item, self.plan, self.earlier))
                self.failures_in_a_row = 0
            except ShortOfMemoryError as problem:  # the actor's trouble, not the image's
                stop = str(problem).splitlines()[0]
            except torch.AcceleratorError:  # nothing works in this process any more
                os._exit(1)
            except Exception as problem:  # one image's fault must not cost the others their draws
                failed[item.index] = f"{type(problem).__name__}: {problem}".splitlines()[0]
                self._pause()
        return Answer(pa.concat_tables(tables), self.device_name, failed, stop).table()

    def _pause(self) -> None:
        """Where all images fail at once, leave the work to other actors."""
        self.failures_in_a_row += 1
        more = self.failures_in_a_row - SLOW_DOWN_AFTER_FAILURES
        if more > 0:
            time.sleep(min(more, LONGEST_PAUSE_SECONDS))
