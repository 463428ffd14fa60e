"""Feeds give a training run its batches: from a tensor on the device, or from a reader ahead of it.

A data set that fits stays in memory, decoded. Any other is read while the training goes on: by a
thread of this process, or by whatever else offers `batches` (distributed/train/feed.py: Ray Data).
"""

# Shapes: N images of the subset, B images of this worker's share of a batch, C H W an image.
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from rsray.core.gpus import send
from rsray.data import ImageSplit
from rsray.errors import UserError
from rsray.objectives import Objective
from rsray.training.batches.reader import RESIZED_CROP, Reader
from rsray.training.batches.schedule import BatchShare, Schedule
from rsray.training.batches.sending import Pair, sent_ahead

# Data sets up to this size live on the device, decoded.
IN_MEMORY_BYTES = 2**31


class BatchFeed(Protocol):
    """Gives a worker the images of its share of every batch."""

    def batches(self, schedule: Schedule, epoch: int, first: int = 0) -> Iterator[Pair]:
        """Yield (images uint8 [B, C, H, W], labels [B]) on the device, per share of the epoch.

        The first so many shares are left out.
        """
        ...


@dataclass(frozen=True)
class ImageSubset:
    """The images [N] (by index in the split) that a run trains on."""

    split: ImageSplit
    indices: NDArray[np.int64]
    device: torch.device

    def __len__(self) -> int:
        """Return the number of training images N."""
        return len(self.indices)

    def tensors(self) -> Pair:
        """Return all images uint8 [N, C, H, W] and labels [N] on the device, read once."""
        found: Pair | None = self.__dict__.get("_tensors")
        if found is None:
            images = torch.from_numpy(self.split.images(self.indices)).to(self.device)
            labels = torch.from_numpy(self.split.labels[self.indices]).to(self.device)
            found = (images, labels)
            self.__dict__["_tensors"] = found
        return found


OpenFeed = Callable[[ImageSubset, Reader], BatchFeed]


def is_streamed(split: ImageSplit, num_images: int, augmentation: str) -> bool:
    """Tell whether images are read as they are needed: they do not fit, or are cut differently.

    A random-resized crop is cut from the picture as it is on disk, anew in each epoch.
    """
    num_bytes = num_images * int(np.prod(split.image_shape))
    return num_bytes > IN_MEMORY_BYTES or augmentation == RESIZED_CROP


def refuse_to_weigh_streamed(objective: Objective) -> None:
    """Raise UserError where an objective weighs images that are read as they are needed."""
    if objective.weighs_images:
        raise UserError(
            f"objective {type(objective).__name__} looks at all images again and again: they must "
            f"fit in memory ({IN_MEMORY_BYTES / 2**30:g} GiB), without random-resized-crop"
        )


@dataclass(frozen=True)
class ResidentFeed:
    """Batches of a data set that lives on the device."""

    subset: ImageSubset

    def batches(self, schedule: Schedule, epoch: int, first: int = 0) -> Iterator[Pair]:
        """Yield the images of each share."""
        images_NCHW, labels_N = self.subset.tensors()
        positions = [share.positions_B for share in schedule.shares(epoch)[first:]]
        if positions:
            order = send(torch.cat(positions), self.subset.device)
            for here in order.split([len(each) for each in positions]):
                yield images_NCHW[here], labels_N[here]


@dataclass(frozen=True)
class ReadAheadFeed:
    """Batches read by a thread, one ahead of the training."""

    subset: ImageSubset
    reader: Reader

    def batches(self, schedule: Schedule, epoch: int, first: int = 0) -> Iterator[Pair]:
        """Return the images of each share."""
        shares = schedule.shares(epoch)[first:]
        return sent_ahead(map(self._read, shares), self.subset.device)

    def _read(self, share: BatchShare) -> Pair:
        wanted = self.subset.indices[share.positions_B.numpy()]
        images, labels = self.reader.read(wanted, share.key[1])
        return torch.from_numpy(images), torch.from_numpy(labels)
