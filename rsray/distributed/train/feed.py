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
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rsray.distributed.session import quiet_logs
from rsray.training.reader import Reader

if TYPE_CHECKING:  # tasks that decode import this file, and need no torch
    from torch import Tensor

    from rsray.training.feeds import ImageSubset
    from rsray.training.schedule import Schedule

TASK_IMAGES = 64  # at most: some tenths of a second of decoding, ten times what a task costs
TASKS = 1024  # epochs shorter than this share a pipeline, which takes seconds to start
AHEAD = 2  # shares of batches that wait in this worker's memory
STORE_SHARE = 0.4  # of the cluster's object store, for all pipelines together

Array = NDArray[Any]


@dataclass(frozen=True)
class Work:
    """What all tasks of a pipeline read: task t the images starts[t]:starts[t + 1]."""

    reader: Reader
    indices: Array  # in the split, of all tasks one after the other
    starts: Array  # [T + 1]
    epochs: Array  # [T]


def decode(batch: dict[str, Array], work: Work) -> dict[str, Array]:
    """Return the images uint8 [n, C, H, W] and labels [n] of one task."""
    (task,) = batch["id"]
    wanted = work.indices[work.starts[task] : work.starts[task + 1]]
    images, labels = _kept(work.reader).read(wanted, int(work.epochs[task]))
    return {"task": np.full(len(labels), task), "image": images, "label": labels}


@lru_cache(maxsize=2)
def _kept(reader: Reader) -> Reader:
    """Return the equal reader that this process has used before: it has listed its files."""
    return reader


@dataclass
class RayFeed:
    """A worker's batches from a Ray Data pipeline (a rsray.training.feeds.BatchFeed)."""

    subset: ImageSubset
    reader: Reader
    cpus: float = 1.0  # of a task
    _epochs: range = field(default=range(0), init=False)  # that the pipeline still has to give
    _blocks: Iterator[dict[str, Array]] = field(default=iter(()), init=False)

    def batches(self, schedule: Schedule, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images uint8 [B, C, H, W], labels [B]) on the device, per share of the epoch."""
        import torch

        shares = schedule.shares(epoch)
        if shares and epoch not in self._epochs[:1]:
            self._start(schedule, epoch)
        self._epochs = self._epochs[1:]
        for share in shares:
            blocks = [self._next() for _ in _cuts(len(share.slots))[1:]]
            images, labels = (
                torch.from_numpy(np.concatenate([block[name] for block in blocks]))
                for name in ("image", "label")
            )
            if len(labels) != len(share.slots):
                raise RuntimeError(f"{len(labels)} images came where {len(share.slots)} were due")
            yield images.to(self.subset.device), labels.to(self.subset.device)
        if not self._epochs:
            self._finish()

    def _finish(self) -> None:
        """Let the pipeline end and its actor go; if only dropped, it would call Ray once more."""
        if next(self._blocks, None) is not None:
            raise RuntimeError("more training images came than were due")
        self._blocks = iter(())

    def _next(self) -> dict[str, Array]:
        block = next(self._blocks, None)
        if block is None:
            raise RuntimeError("the pipeline of training images ended early")
        return block

    def _start(self, schedule: Schedule, epoch: int) -> None:
        """Start the pipeline of this epoch, and of those after it while epochs are short."""
        tasks_per_epoch = sum(len(_cuts(len(p.slots))) - 1 for p in schedule.shares(epoch))
        together = max(1, TASKS // tasks_per_epoch)
        self._epochs = range(epoch, min(epoch + together, max(schedule.epochs, epoch + 1)))
        per_share = max(1, tasks_per_epoch // len(schedule.shares(epoch)))
        work = plan(schedule, self._epochs, self.subset.indices, self.reader)
        self._blocks = run(work, self.cpus, schedule.world, AHEAD * per_share)


def plan(schedule: Schedule, epochs: range, indices: Array, reader: Reader) -> Work:
    """Return the tasks of these epochs: the shares of the batches in their order, cut small."""
    wanted, starts, epoch_of = [], [0], []
    for epoch in epochs:
        for share in schedule.shares(epoch):
            cuts = _cuts(len(share.slots))
            starts += [starts[-1] + cut for cut in cuts[1:]]
            epoch_of += [epoch] * (len(cuts) - 1)
            wanted.append(indices[share.positions_B.numpy()])
    return Work(reader, np.concatenate(wanted), np.array(starts), np.array(epoch_of))


def _cuts(size: int) -> list[int]:
    """Return where a share of `size` images is cut into equal tasks, from 0 to size."""
    tasks = -(-size // TASK_IMAGES)
    return [size * task // tasks for task in range(tasks + 1)]


def run(work: Work, cpus: float, world: int, ahead: int) -> Iterator[dict[str, Array]]:
    """Return the answers of the tasks in their order; several workers share the object store."""
    import ray.data
    from ray.data import ExecutionResources

    quiet_logs()
    tasks = len(work.epochs)
    store = float(ray.cluster_resources().get("object_store_memory", 0)) * STORE_SHARE / world
    source: Any = ray.data.range(tasks, override_num_blocks=tasks)  # one block per task
    images = source.map_batches(
        decode, fn_kwargs={"work": work}, batch_size=None, batch_format="numpy", num_cpus=cpus
    )
    images.context.enable_progress_bars = False
    images.context.execution_options.preserve_order = True
    if store:
        limits = ExecutionResources.for_limits(object_store_memory=store)
        images.context.execution_options.resource_limits = limits
    (mine,) = images.streaming_split(1)
    answers = mine.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=ahead)
    return iter(answers)
