"""Where a training run's batches come from: a tensor on the device, or a reader one batch ahead."""

# Shapes: N images of the training split, B images of this worker's part of a batch, C H W an image.
from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsray.data import ImageSplit

IN_MEMORY_BYTES = 2**31  # data sets up to this size live on the device, decoded


@dataclass(frozen=True)
class Source:
    """The images [N] (by index in the split) that a run trains on."""

    split: ImageSplit
    indices: NDArray[np.int64]
    device: torch.device

    def __len__(self) -> int:
        """Return the number of training images N."""
        return len(self.indices)

    def batches(self, orders: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images uint8 [B, C, H, W], labels [B]) on the device, per list of positions."""
        bytes_in_memory = len(self) * int(np.prod(self.split.image_shape))
        fits = bytes_in_memory <= IN_MEMORY_BYTES
        return self._resident(orders) if fits else self._streamed(orders)

    def _resident(self, orders: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        images_NCHW, labels_N = self.tensors()
        for positions in orders:
            here = positions.to(self.device)
            yield images_NCHW[here], labels_N[here]

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Return all images uint8 [N, C, H, W] and labels [N] on the device, read once."""
        found: tuple[Tensor, Tensor] | None = self.__dict__.get("_tensors")
        if found is None:
            images = torch.from_numpy(self.split.images(self.indices)).to(self.device)
            labels = torch.from_numpy(self.split.labels[self.indices]).to(self.device)
            found = (images, labels)
            self.__dict__["_tensors"] = found
        return found

    def _streamed(self, orders: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        def read(positions: Tensor) -> tuple[Tensor, Tensor]:
            wanted = self.indices[positions.numpy()]
            return torch.from_numpy(self.split.images(wanted)), torch.from_numpy(
                self.split.labels[wanted]
            )

        with ThreadPoolExecutor(1) as ahead:
            waiting = [ahead.submit(read, order) for order in orders[:1]]
            for following in range(1, len(orders) + 1):
                images, labels = waiting.pop().result()
                waiting += [
                    ahead.submit(read, order) for order in orders[following : following + 1]
                ]
                yield images.to(self.device), labels.to(self.device)
