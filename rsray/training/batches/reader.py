"""Read the images of a batch: decoded, and cut for training.

Tasks that decode import this file (distributed/train/feed.py), so it needs no torch.
"""

# Shapes: n images asked for, C H W an image.
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsray.data import ImageSplit
from rsray.training.batches.crop import RESIZED_CROP, RandomResizedCrop, with_crop

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Reader:
    """Reads images of a split by index. Cheap to pickle: the split travels as its addresses."""

    split: ImageSplit
    augmentation: str
    seed: int

    def read(self, indices: Labels, epoch: int) -> tuple[Images, Labels]:
        """Return images uint8 [n, C, H, W] and labels [n] as this epoch sees them.

        The same images whoever reads them, in whatever order. Raises UserError as the split does.
        """
        split = self.split
        labels = split.labels[indices]
        if self.augmentation == RESIZED_CROP:
            split = with_crop(split, RandomResizedCrop(self.seed, epoch))
        return split.images(indices), labels
