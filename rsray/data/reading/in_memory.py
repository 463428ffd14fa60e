"""Splits small enough to be read whole and kept in memory."""

# Shapes: N images of the split, C channels, H height, W width.
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from rsray.data._base import ImageSplit, Labels, Pixels
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
