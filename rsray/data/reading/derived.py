"""Splits made of another one: with its images kept in memory, or its classes renumbered."""

# Shapes: N images of the split, C channels, H height, W width.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rsray.data._base import ImageSplit, Indices, Labels, Pixels


@dataclass(frozen=True, kw_only=True)
class DerivedSplit(ImageSplit):
    """The images of another split, with something about them changed."""

    base: ImageSplit

    @classmethod
    def of(cls, base: ImageSplit, **own: Any) -> Self:
        """Return a split that is as `base` but for its own fields."""
        facts = {field.name: getattr(base, field.name) for field in fields(ImageSplit)}
        return cls(**{**facts, "base": base, **own})

    @cached_property
    def image_names(self) -> tuple[str, ...]:
        """The base's names of the images [N]."""
        return self.base.image_names

    def stored(self, indices: Indices) -> list[bytes]:
        """Return what the base holds of these images."""
        return self.base.stored(indices)

    def _read_labels(self) -> Labels:
        return self.base.labels

    def _read_images(self, indices: Labels) -> Pixels:
        return self.base.images(indices)


@dataclass(frozen=True, kw_only=True)
class CachedSplit(DerivedSplit):
    """Another split whose images are decoded only once each; their decoded size must fit."""

    @cached_property
    def _decoded(self) -> tuple[Pixels, NDArray[np.bool_]]:
        # One pair: a thread that loses the race for the attribute keeps a consistent pair.
        return np.empty((len(self), *self.image_shape), np.uint8), np.zeros(len(self), bool)

    def _read_images(self, indices: Labels) -> Pixels:
        pixels, known = self._decoded
        missing = np.unique(indices[~known[indices]])
        if missing.size:
            pixels[missing] = self.base.images(missing)
            known[missing] = True
        return pixels[indices]


@dataclass(frozen=True, kw_only=True)
class Relabelled(DerivedSplit):
    """The images of another split, with the label `new_labels[k]` for its class k."""

    new_labels: tuple[int, ...]

    @classmethod
    def by_name(cls, base: ImageSplit, classes: Sequence[str]) -> Relabelled:
        """Return `base` with the numbers of these classes; they must hold all of its own."""
        number = {name: label for label, name in enumerate(classes)}
        new_labels = tuple(number[name] for name in base.classes)
        facts = {"num_classes": len(classes), "class_names": tuple(classes)}
        return cls.of(base, **facts, new_labels=new_labels)

    def _read_labels(self) -> Labels:
        return np.asarray(self.new_labels, np.int64)[self.base.labels]
