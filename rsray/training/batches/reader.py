"""Read the images of a batch: decoded, and cut and flipped at random for training.

Tasks that decode import this file (distributed/train/feed.py), so it needs no torch. A picture's
crop is decided by the run's seed, the epoch and the picture's own pixels: not by the worker that
reads it, nor by its place in a batch or on a disk.
"""

# Shapes: n images asked for, C H W an image.
from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rsray.data import ImageSplit
from rsray.data.reading.derived import CachedSplit

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

RESIZED_CROP = "random-resized-crop"
# The part that is cut out: its share of the picture's area, and its width over its height.
AREA_FRACTIONS = (0.08, 1.0)
ASPECT_RATIOS = (3 / 4, 4 / 3)
MOST_ATTEMPTS = 10
# So many rows in the middle of a picture make its random numbers its own.
STRIP_ROWS = 8


@dataclass(frozen=True)
class RandomResizedCrop:
    """Cuts out a part of random area and shape, resizes it and mirrors every other picture.

    The distribution is torchvision's RandomResizedCrop followed by RandomHorizontalFlip.
    """

    seed: int
    epoch: int

    def __call__(self, picture: Image.Image, size: tuple[int, int]) -> Image.Image:
        """Return a picture of `size` (width, height)."""
        draws = np.random.default_rng([self.seed, self.epoch, _pixel_checksum(picture)])
        box = draw_box(picture.width, picture.height, draws)
        cut = picture.resize(size, Image.Resampling.BILINEAR, box=box)
        is_mirrored = draws.random() < 0.5
        return cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if is_mirrored else cut


def draw_box(width: int, height: int, draws: np.random.Generator) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom) of the part that is cut out."""
    areas = draws.uniform(*AREA_FRACTIONS, MOST_ATTEMPTS) * width * height
    ratios = np.exp(
        draws.uniform(math.log(ASPECT_RATIOS[0]), math.log(ASPECT_RATIOS[1]), MOST_ATTEMPTS)
    )
    left_top = draws.random(2)
    widths, heights = np.rint(np.sqrt(areas * ratios)), np.rint(np.sqrt(areas / ratios))
    fits = (0 < widths) & (widths <= width) & (0 < heights) & (heights <= height)
    if not fits.any():
        return _central_box(width, height)
    first = int(fits.argmax())
    wide, high = int(widths[first]), int(heights[first])
    left = int(left_top[0] * (width - wide + 1))
    top = int(left_top[1] * (height - high + 1))
    return left, top, left + wide, top + high


def _central_box(width: int, height: int) -> tuple[int, int, int, int]:
    """Return the middle of a picture that is too long or too high for any draw."""
    wide = min(width, max(1, round(height * ASPECT_RATIOS[1])))
    high = min(height, max(1, round(width / ASPECT_RATIOS[0])))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def _pixel_checksum(picture: Image.Image) -> int:
    """Return a checksum of the rows in the middle, which pictures hardly share."""
    top = max(0, (picture.height - STRIP_ROWS) // 2)
    strip = picture.crop((0, top, picture.width, min(picture.height, top + STRIP_ROWS)))
    return zlib.crc32(strip.tobytes())


def with_crop(split: ImageSplit, crop: RandomResizedCrop) -> ImageSplit:
    """Return the split with its pictures cut by `crop`; what it has read of its files is kept.

    A split whose images are arrays has no larger pictures to cut from and is returned as it is.
    """
    if isinstance(split, CachedSplit):
        # What it keeps is not cut, or cut for another epoch.
        cut = with_crop(split.base, crop)
        return split if cut is split.base else cut
    own = {field.name: split.__dict__[field.name] for field in fields(split)}
    changes: dict[str, Any] = {}
    if "geometry" in own:
        changes["geometry"] = replace(own["geometry"], crop=crop)
    if isinstance(own.get("base"), ImageSplit):
        changes["base"] = with_crop(own["base"], crop)
    if not changes:
        return split
    cut = replace(split, **changes)
    cut.__dict__.update({key: value for key, value in split.__dict__.items() if key not in own})
    return cut


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
