"""The certification actor: holds the network and counts what a task names."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import torch

from rsray.certification.engine.evaluation import Evaluation
from rsray.certification.engine.sampler import Sampler, ShortOfMemoryError
from rsray.certification.plan import Item
from rsray.certification.source import ClassifierSource
from rsray.certification.store import COUNTS, SOFT_COUNTS
from rsray.certification.work import WorkRules, do_item
from rsray.core.hardware import dedicate_process, device_name
from rsray.data import ImageSplit
from rsray.distributed.session import extend_search_path

_TASK_FIELDS: dict[str, pa.DataType] = {
    "index": pa.int64(),
    "label": pa.int32(),
    "first_block": pa.int32(),
    "num_blocks": pa.int32(),
    "selection": pa.bool_(),
    "selected_class": pa.int32(),
}
TASK = pa.schema(_TASK_FIELDS)
# Why there are no counts, if there are none, and the chip that made them.
_MORE = (pa.field("error", pa.string()), pa.field("device", pa.string()))
ANSWER, SOFT_ANSWER = pa.schema([*COUNTS, *_MORE]), pa.schema([*SOFT_COUNTS, *_MORE])
FAILED, STOP = "failed", "stop"  # the stage of a row that has no counts: of an image, of the run
ODD = 3  # images that failed one after the other: it may be the node, not the images


def task_table(items: list[Item]) -> pa.Table:
    """Return the items as a table of TASK."""
    return pa.Table.from_pylist([asdict(item) for item in items], schema=TASK)


class CountingActor:
    """Holds the network and counts; one per GPU or CPU core."""

    def __init__(self, job: dict[str, Any]) -> None:
        """Build the engine from what the driver sent."""
        import ray

        dedicate_process(job["threads"], job["gpus"])
        extend_search_path(job["search_path"])
        source: ClassifierSource = ray.get(job["source"])
        self.split: ImageSplit = job["split"]
        self.rules: WorkRules = job["rules"]
        self.failures = 0  # in a row
        evaluation: Evaluation = job["evaluation"]
        device = torch.device(evaluation.device)
        self.device_name = device_name(device)
        self.sampler = Sampler(
            source.build(self.split).to(device),
            evaluation,
            image_shape=self.split.image_shape,
            num_classes=self.split.num_classes,
            sigma=job["sigma"],
            seed=job["seed"],
        )

    def __call__(self, task: pa.Table) -> pa.Table:
        """Return the counts of a task's items; an item that fails gives one row that says why."""
        rows: list[dict[str, Any]] = []
        for values in task.to_pylist():
            item = Item(**values)
            try:
                image = self.split.images([item.index])[0]
                made = do_item(self.sampler, image, item, self.rules)
                rows += [{**row, "device": self.device_name} for row in made]
                self.failures = 0
            except ShortOfMemoryError as problem:  # the actor's trouble, not the image's
                rows.append(_failure(item, STOP, str(problem)))
            except torch.AcceleratorError:  # nothing works in this process any more
                os._exit(1)
            except Exception as problem:  # one image's fault must not cost the others their draws
                rows.append(_failure(item, FAILED, f"{type(problem).__name__}: {problem}"))
                self.failures += 1
                if self.failures > ODD:  # where all fails at once, leave the work to other actors
                    time.sleep(min(self.failures - ODD, 10))
        return pa.Table.from_pylist(rows, schema=SOFT_ANSWER if self.rules.soft else ANSWER)


def _failure(item: Item, stage: str, reason: str) -> dict[str, Any]:
    return {
        "index": item.index,
        "label": item.label,
        "stage": stage,
        "block": item.first_block,
        "draws": 0,
        "classes": [],
        "counts": [],
        "sums": [],
        "square_sums": [],
        "error": reason.splitlines()[0],
    }
