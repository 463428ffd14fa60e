"""Batches of data sets that do not fit in memory: decoded, cut and mirrored by Ray Data tasks.

Each training worker has a pipeline for its own share of every batch, in the order of its schedule,
so its images do not depend on timing. The pipeline is run by an actor, the decoding by tasks
anywhere in the cluster; the training process only takes finished blocks from the object store.
"""

# Shapes: n images of a task, B images of a worker's share of a batch, C H W an image, T tasks.
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rsray.distributed.session import quiet_logs
from rsray.training.batches.reader import Reader

# Tasks that decode import this file, and need no torch.
if TYPE_CHECKING:
    from torch import Tensor

    from rsray.training.batches.feeds import ImageSubset
    from rsray.training.batches.schedule import BatchShare, Schedule

# Some tenths of a second of decoding, ten times what a task costs.
MOST_IMAGES_PER_TASK = 64
# Shorter epochs share a pipeline, which takes seconds to start.
LEAST_TASKS_PER_PIPELINE = 1024
# Shares of batches that wait in this worker's memory.
SHARES_READ_AHEAD = 2
# Of the cluster's object store, for all pipelines together.
STORE_SHARE = 0.4
# Of a worker's cores, for the tasks that read images for it.
READING_SHARE_OF_CORES = 0.25

Array = NDArray[Any]


@dataclass(frozen=True)
class TaskPlan:
    """What all tasks of a pipeline read: task t the images starts[t]:starts[t + 1]."""

    reader: Reader
    # In the split, of all tasks one after the other.
    indices: Array
    # [T + 1] and [T].
    starts: Array
    epochs: Array


def decode_task(batch: dict[str, Array], plan: TaskPlan) -> dict[str, Array]:
    """Return the images uint8 [n, C, H, W] and labels [n] of one task."""
    (task,) = batch["id"]
    wanted = plan.indices[plan.starts[task] : plan.starts[task + 1]]
    images, labels = _known_reader(plan.reader).read(wanted, int(plan.epochs[task]))
    return {"task": np.full(len(labels), task), "image": images, "label": labels}


@lru_cache(maxsize=2)
def _known_reader(reader: Reader) -> Reader:
    """Return the equal reader that this process has used before: it has listed its files."""
    return reader


@dataclass
class RayFeed:
    """A worker's batches from a Ray Data pipeline (a rsray.training.batches.feeds.BatchFeed)."""

    subset: ImageSubset
    reader: Reader
    # Of a task.
    cpus: float = 1.0
    # Trainings that share the cluster's object store.
    trainings: int = 1
    # What the pipeline still has to give.
    _epochs: range = field(default=range(0), init=False)
    _blocks: Iterator[dict[str, Array]] = field(default=iter(()), init=False)

    def batches(
        self, schedule: Schedule, epoch: int, first: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images uint8 [B, C, H, W], labels [B]) on the device, per share of the epoch."""
        from rsray.training.batches.sending import sent_ahead

        shares = schedule.shares(epoch)[first:]
        if shares and epoch not in self._epochs[:1]:
            self._start_pipeline(schedule, epoch, first)
        self._epochs = self._epochs[1:]
        yield from sent_ahead(map(self._next_share, shares), self.subset.device)
        if not self._epochs:
            # The pipeline ends and its actor goes; if only dropped, it would call Ray once more.
            if next(self._blocks, None) is not None:
                raise RuntimeError("more training images came than were due")
            self._blocks = iter(())

    def _next_share(self, share: BatchShare) -> tuple[Tensor, Tensor]:
        import torch

        tasks = len(_cut_share(len(share.slots))) - 1
        blocks = list(islice(self._blocks, tasks))
        if len(blocks) < tasks:
            raise RuntimeError("the pipeline of training images ended early")
        images, labels = (
            torch.from_numpy(np.concatenate([block[name] for block in blocks]))
            for name in ("image", "label")
        )
        if len(labels) != len(share.slots):
            raise RuntimeError(f"{len(labels)} images came where {len(share.slots)} were due")
        return images, labels

    def _start_pipeline(self, schedule: Schedule, epoch: int, first: int) -> None:
        """Start the pipeline of this epoch, and of those after it while epochs are short."""
        tasks_per_epoch = sum(len(_cut_share(len(p.slots))) - 1 for p in schedule.shares(epoch))
        together = max(1, LEAST_TASKS_PER_PIPELINE // tasks_per_epoch)
        self._epochs = range(epoch, min(epoch + together, max(schedule.epochs, epoch + 1)))
        per_share = max(1, tasks_per_epoch // len(schedule.shares(epoch)))
        plan = plan_tasks(schedule, self._epochs, self.subset.indices, self.reader, first)
        pipelines = schedule.world * self.trainings
        self._blocks = run_tasks(plan, self.cpus, pipelines, SHARES_READ_AHEAD * per_share)


def plan_tasks(
    schedule: Schedule, epochs: range, indices: Array, reader: Reader, first: int = 0
) -> TaskPlan:
    """Return the tasks of these epochs: the shares of the batches in their order, cut small.

    The first so many shares of the first epoch are left out.
    """
    wanted, starts, epoch_of = [], [0], []
    for epoch in epochs:
        for share in schedule.shares(epoch)[first if epoch == epochs.start else 0 :]:
            cuts = _cut_share(len(share.slots))
            starts += [starts[-1] + cut for cut in cuts[1:]]
            epoch_of += [epoch] * (len(cuts) - 1)
            wanted.append(indices[share.positions_B.numpy()])
    return TaskPlan(reader, np.concatenate(wanted), np.array(starts), np.array(epoch_of))


def _cut_share(size: int) -> list[int]:
    """Return where a share of `size` images is cut into equal tasks, from 0 to size."""
    tasks = -(-size // MOST_IMAGES_PER_TASK)
    return [size * task // tasks for task in range(tasks + 1)]


def share_with_reading(cores: float, gpus: float) -> tuple[float, float]:
    """Return what is left to a worker of its cores, and the cores of a task that reads for it."""
    if gpus:
        return 1.0, 1.0
    if cores <= 1:
        return cores / 2, cores / 2
    return cores - max(1, int(cores * READING_SHARE_OF_CORES)), 1.0


def run_tasks(
    plan: TaskPlan, cpus: float, pipelines: int, ahead: int
) -> Iterator[dict[str, Array]]:
    """Return the answers of the tasks in their order; pipelines share the object store."""
    import ray.data
    from ray.data import ExecutionResources

    quiet_logs()
    tasks = len(plan.epochs)
    store = float(ray.cluster_resources().get("object_store_memory", 0)) * STORE_SHARE / pipelines
    # One block per task.
    source: Any = ray.data.range(tasks, override_num_blocks=tasks)
    images = source.map_batches(
        decode_task, fn_kwargs={"plan": plan}, batch_size=None, batch_format="numpy", num_cpus=cpus
    )
    images.context.enable_progress_bars = False
    images.context.execution_options.preserve_order = True
    # Images of a task stay one block, however large they are: blocks are counted.
    images.context.target_max_block_size = None
    if store:
        limits = ExecutionResources.for_limits(object_store_memory=store)
        images.context.execution_options.resource_limits = limits
    (mine,) = images.streaming_split(1)
    answers = mine.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=ahead)
    return iter(answers)
