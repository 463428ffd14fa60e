"""A split whose classes are renumbered as another data set numbers them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rsray.data._base import ImageSplit, Indices, Labels, Pixels


@dataclass(frozen=True, kw_only=True)
class Relabelled(ImageSplit):
    """The images of another split, with the label `new_labels[k]` for its class k."""

    base: ImageSplit
    new_labels: tuple[int, ...]

    @classmethod
    def by_name(cls, base: ImageSplit, classes: Sequence[str]) -> Relabelled:
        """Return `base` with the numbers of these classes; they must hold all of its own."""
        number = {name: label for label, name in enumerate(classes)}
        return cls(
            name=base.name,
            split=base.split,
            num_classes=len(classes),
            image_shape=base.image_shape,
            class_names=tuple(classes),
            base=base,
            new_labels=tuple(number[name] for name in base.classes),
        )

    @cached_property
    def image_names(self) -> tuple[str, ...]:
        """The base's names of the images [N]."""
        return self.base.image_names

    def stored(self, indices: Indices) -> list[bytes]:
        """Return what the base holds of these images."""
        return self.base.stored(indices)

    def _read_labels(self) -> Labels:
        return np.asarray(self.new_labels, np.int64)[self.base.labels]

    def _read_images(self, indices: Labels) -> Pixels:
        return self.base.images(indices)
