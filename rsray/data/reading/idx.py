"""Splits in idx files: MNIST's, and those of the sets that were made to stand in its place."""

import gzip
import logging
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from rsray.data._base import DataNotFoundError, ImageSplit, Labels, Pixels, ReadOptions
from rsray.data.reading.in_memory import ArraySplit
from rsray.errors import UserError
from rsray.storage import Place, one_line

log = logging.getLogger(__name__)
PREFIXES = {"train": "train", "test": "t10k"}
# Images of the two splits as they are published
WHOLE = {"train": 60_000, "test": 10_000}
# The type code of the idx format
UNSIGNED_BYTE = 8


@dataclass(frozen=True)
class IdxSet:
    """A data set of 28 x 28 grey images in ten classes, in four files that MNIST named.

    Nothing in such files says which set they hold, and several sets (KMNIST among them) have files
    of the same names and sizes: the first labels tell. A whole split of other labels is refused; of
    a part of one, which may begin anywhere, it is said that it is taken to be of this set.
    """

    name: str
    # Where torchvision keeps the files
    folder: str
    # The first labels of each split as it is published, such as "50419213143536172869"
    first_labels: Mapping[str, str]

    def open(self, split: str, root: Place, options: ReadOptions) -> ImageSplit:
        """Return a split; raises DataNotFoundError when its files are in no known place.

        Raises UserError for a whole split whose labels are of another set.
        """
        images, labels = self._find(root, PREFIXES[split])
        self._check(labels, split)
        return ArraySplit(
            name=self.name,
            split=split,
            num_classes=10,
            image_shape=(1, 28, 28),
            load=partial(load_split, images, labels),
        )

    def _check(self, file: Place, split: str) -> None:
        """Raise UserError unless a file may hold the labels of this split of this set."""
        labels = read_idx(file, 1)
        if split == "test" and len(labels) == WHOLE["train"]:
            raise UserError(f"{file} has {len(labels):,} labels: it is of the training split")
        own = list(map(int, self.first_labels[split]))
        first = labels[: len(own)].tolist()
        if first == own:
            return
        begin = f"its labels begin {_shown(first)}, the published ones {_shown(own)}"
        if len(labels) == WHOLE[split]:
            raise UserError(
                f"{file} is not of {self.name}: {begin}; other data sets name their files alike"
            )
        log.warning("%s is taken to be a part of %s, but %s", file, self.name, begin)

    def _find(self, root: Place, prefix: str) -> tuple[Place, Place]:
        """Return the locations of the images and the labels, a folder of the set's own first."""
        places = (root / self.name, root)
        folders = [place / inner for inner in (self.folder, "raw", "") for place in places]
        names = f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"
        for folder in folders:
            both = [[folder / (name + suffix) for suffix in ("", ".gz")] for name in names]
            images, labels = ([file for file in pair if file.is_file()] for pair in both)
            if images and labels:
                return images[0], labels[0]
        raise DataNotFoundError([str(folder / f"{names[0]}[.gz]") for folder in folders])


def load_split(images: Place, labels: Place) -> tuple[Pixels, Labels]:
    """Return images uint8 [N, 1, 28, 28] and labels int64 [N]; UserError names a bad file."""
    return read_idx(images, num_dimensions=3)[:, None], read_idx(labels, 1).astype(np.int64)


def _shown(labels: list[int]) -> str:
    return " ".join(map(str, labels))


def read_idx(file: Place, num_dimensions: int) -> Pixels:
    """Return the array of an idx file (or .gz of one); raises UserError when it is damaged."""
    data = file.read_bytes()
    if file.name.endswith(".gz"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{file}: truncated or damaged: {one_line(error)}") from error
    header = 4 + 4 * num_dimensions
    if data[:4] != bytes([0, 0, UNSIGNED_BYTE, num_dimensions]) or len(data) < header:
        raise UserError(f"{file}: not an idx file of bytes with {num_dimensions} dimension(s)")
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", num_dimensions, offset=4))
    expected = header + int(np.prod(shape, dtype=np.int64))
    if len(data) != expected:
        raise UserError(
            f"{file}: truncated or damaged: its header says {expected} bytes, it has {len(data)}"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)
