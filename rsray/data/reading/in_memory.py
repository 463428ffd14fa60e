"""Splits small enough to keep in memory once read."""

# Shapes: N images of the split, n images asked for, C channels, H height, W width.
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from rsray.data._base import ImageSplit, Indices, Labels, Pixels
from rsray.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ArraySplit(ImageSplit):
    """A split whose files are read whole, at the first use."""

    # Images [N, C, H, W] and labels [N]; picklable
    load: Callable[[], tuple[Pixels, Labels]]

    @cached_property
    def _arrays(self) -> tuple[Pixels, Labels]:
        images, labels = self.load()
        if len(images) != len(labels):
            raise UserError(
                f"{self.name} ({self.split}): {len(images)} images but {len(labels)} labels"
            )
        if images.shape[1:] != self.image_shape:
            raise UserError(
                f"{self.name} ({self.split}): images have shape {images.shape[1:]}, "
                f"must be {self.image_shape}"
            )
        return images, labels

    def _read_labels(self) -> Labels:
        return self._arrays[1]

    def _read_images(self, indices: Labels) -> Pixels:
        return self._arrays[0][indices]


@dataclass(frozen=True, kw_only=True)
class CachedSplit(ImageSplit):
    """Another split whose images are decoded only once each."""

    base: ImageSplit

    @classmethod
    def of(cls, base: ImageSplit) -> "CachedSplit":
        """Return `base` with a memory; its decoded size must fit."""
        return cls(
            name=base.name,
            split=base.split,
            num_classes=base.num_classes,
            image_shape=base.image_shape,
            class_names=base.class_names,
            base=base,
        )

    @cached_property
    def image_names(self) -> tuple[str, ...]:
        """The base's names of the images [N]."""
        return self.base.image_names

    def stored(self, indices: Indices) -> list[bytes]:
        """Return what the base holds of these images."""
        return self.base.stored(indices)

    @cached_property
    def _decoded(self) -> tuple[Pixels, NDArray[np.bool_]]:
        # One pair: a thread that loses the race for the attribute keeps a consistent pair.
        return np.empty((len(self), *self.image_shape), np.uint8), np.zeros(len(self), bool)

    def _read_labels(self) -> Labels:
        return self.base.labels

    def _read_images(self, indices: Labels) -> Pixels:
        pixels, known = self._decoded
        missing = np.unique(indices[~known[indices]])
        if missing.size:
            pixels[missing] = self.base.images(missing)
            known[missing] = True
        return pixels[indices]
