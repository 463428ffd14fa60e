"""What a data set is (`DatasetSpec`) and what an opened split of one offers (`ImageSplit`)."""

# Shapes: N images of the split, n images asked for, C channels, H height, W width.
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from hashlib import blake2b
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rsray.errors import UserError
from rsray.storage import Place

Indices = Sequence[int] | NDArray[np.integer[Any]]
Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]
# Images whose contents tell pictures from others under the same names
COMPARED = 64
# Mean and standard deviation of each channel, of pixels in [0, 1].
Statistics = tuple[tuple[float, ...], tuple[float, ...]]


def fields_alone(instance: Any) -> dict[str, Any]:
    """Return what is pickled of a dataclass: its fields, and not what it has read.

    To be taken as `__getstate__`: what was read is read again after unpickling.
    """
    return {field.name: instance.__dict__[field.name] for field in fields(instance)}


class DataNotFoundError(Exception):
    """The data set is in none of the places that were looked at.

    `places` are the addresses or patterns tried, in the order they were tried.
    """

    def __init__(self, places: list[str]) -> None:
        """Keep the places for the message that `open_split` makes of them."""
        super().__init__(", ".join(places))
        self.places = places


@dataclass(frozen=True)
class ReadOptions:
    """How the user wants pictures and labels read; None leaves it to what the data say."""

    # Side of the square that every picture becomes
    image_size: int | None = None
    # 1 grey, 3 colour
    channels: int | None = None
    # Which of a table's columns, or of a .json's fields
    label_column: str | None = None


AS_IT_IS = ReadOptions()


@dataclass(frozen=True, kw_only=True)
class ImageSplit(ABC):
    """The images and labels of one split of one data set.

    A pickled split holds the addresses of its files, not labels or pixels: those are read again,
    lazily, where it is unpickled. Threads may read from one split at the same time.
    """

    # Of the data set
    name: str
    split: str
    num_classes: int
    # C, H, W
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...] | None = None

    @cached_property
    def labels(self) -> Labels:
        """The class of every image, int64 [N], read-only.

        Raises UserError when the files are damaged or a label is not one of 0..num_classes-1.
        """
        labels = np.ascontiguousarray(self._read_labels(), dtype=np.int64)
        outside = np.flatnonzero((labels < 0) | (labels >= self.num_classes))
        if outside.size:
            raise UserError(
                f"{self.name} ({self.split}): image {outside[0]} has label {labels[outside[0]]}; "
                f"labels must be 0..{self.num_classes - 1}"
            )
        labels.flags.writeable = False
        return labels

    def __len__(self) -> int:
        """Return the number of images N."""
        return len(self.labels)

    def images(self, indices: Indices) -> Pixels:
        """Return the images at these indices, in this order, uint8 [n, C, H, W], values 0..255.

        The array is the caller's own. Raises IndexError for an index outside 0..N-1 and UserError
        when a file is damaged or an image has another size than the split.
        """
        wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"image indices must be 0..{len(self) - 1}")
        if not wanted.size:
            return np.empty((0, *self.image_shape), np.uint8)
        return self._read_images(wanted)

    @cached_property
    def image_names(self) -> tuple[str, ...]:
        """What each image is called [N], wherever the data lie; () where nothing names them.

        Two images of the train and the test part may have one name: `stored` tells them apart.
        """
        return ()

    def stored(self, indices: Indices) -> list[bytes]:
        """Return what the data hold of these images, byte for byte: a file, a cell, an array."""
        return [image.tobytes() for image in self.images(indices)]

    @cached_property
    def contents(self) -> str:
        """Tells these images from others of the same names: a digest of 64 spread evenly.

        An image that cannot be read counts as empty: it may fail alone. The images are read once.
        """
        digest, few = blake2b(digest_size=8), min(COMPARED, len(self))
        for row in (np.arange(few) * len(self) // few).tolist():
            try:
                content = self.stored([row])[0]
            except (OSError, UserError):
                content = b""
            digest.update(blake2b(content, digest_size=8).digest())
        return digest.hexdigest()

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes by label; their numbers where the data do not name them."""
        return self.class_names or tuple(map(str, range(self.num_classes)))

    __getstate__ = fields_alone

    @abstractmethod
    def _read_labels(self) -> NDArray[np.integer[Any]]:
        """Return the class of every image [N], not yet checked."""

    @abstractmethod
    def _read_images(self, indices: Labels) -> Pixels:
        """Return the images [n, C, H, W] at valid, not necessarily different indices [n]."""


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """All that the rest of the program knows of a data set before it is opened."""

    name: str
    # Opens (split, root, options); raises DataNotFoundError when the data set is missing.
    open: Callable[[str, Place, ReadOptions], ImageSplit]
    # For the message when it is missing, and what downloads all splits into a local folder.
    how_to_get: str
    fetch: Callable[[str], None] | None = None
    # In an installed package: it needs no root.
    embedded: bool = False

    # None: found in the data.
    num_classes: int | None
    class_names: tuple[str, ...] | None = None
    image_shape: tuple[int, int, int] | None
    # With so many classes, every layout of the data set has them in one order.
    ordered_classes: int | None = None
    # Whether `image_size`, and whether `label_column`, may be chosen.
    resizable: bool = False
    has_label_column: bool = False
    splits: tuple[str, ...] = ("train", "test")
    # None: images go into the network as they are.
    statistics: Statistics | None = None
    augmentation: Literal["none", "affine", "crop-flip", "random-resized-crop"] = "none"

    # What a training run starts from when no preset is named: fields of its configuration, and
    # settings of objectives by the objective's name.
    training: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    # Certify every skip-th test image, as the papers do.
    skip: int = 1
    # What a search starts from: fields of its configuration; how many times fewer epochs its trials
    # have than the run; and the workers of one run, where there are GPUs.
    search: Mapping[str, Any] = field(default_factory=dict)
    shorter_trials: int = 1
    gpu_workers: int = 1

    @property
    def is_own(self) -> bool:
        """Whether it is data of the user's own, of which nothing is known beforehand."""
        return self.image_shape is None
