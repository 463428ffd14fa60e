"""Pictures in one folder per class: the ImageFolder layout, local or remote."""

# Shapes: N images of the split, n images asked for, C channels, H height, W width.
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from rsray.data._base import ImageSplit, Labels, Pixels
from rsray.data.reading.decode import SUFFIXES, Geometry, decode_all, read_header
from rsray.data.splits import seeded_part
from rsray.errors import UserError
from rsray.storage import Place

SUFFIXES_TEXT = "allowed: " + " ".join(SUFFIXES)
LISTING_THREADS = 16  # listing waits for the network, not for the CPU


@dataclass(frozen=True, kw_only=True)
class FolderSplit(ImageSplit):
    """Pictures below `folder`/<class>/, decoded when they are asked for.

    Label k is `class_names[k]`; the images are in the order of class, then file name.
    """

    folder: Place
    geometry: Geometry
    portion: str | None = None  # "train" or "test" of the seeded split; None: everything
    fingerprint: int | None = None  # of the file names, when unpickled

    @cached_property
    def _files(self) -> tuple[list[Place], Labels]:
        files, labels = list_images(self.folder, self.class_names or ())
        if self.portion is not None:
            files, labels = _portion(files, labels, self.portion)
        if not files:
            raise UserError(f"{self.folder}: no images in its class folders ({SUFFIXES_TEXT})")
        if self.fingerprint not in (None, fingerprint(files)):
            raise UserError(f"{self.folder}: its files differ from when the run started")
        return files, labels

    def _read_labels(self) -> Labels:
        return self._files[1]

    def _read_images(self, indices: Labels) -> Pixels:
        files = [self._files[0][index] for index in indices]
        return decode_all(
            lambda i: (files[i].read_bytes(), files[i]),
            len(files),
            self.geometry,
            waits=not self.folder.is_local,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields, with the fingerprint of the files if they were listed."""
        state = super().__getstate__()
        if "_files" in self.__dict__:
            state["fingerprint"] = fingerprint(self._files[0])
        return state


def list_images(folder: Place, classes: tuple[str, ...]) -> tuple[list[Place], Labels]:
    """Return the pictures of these class folders in order, and their labels [N]."""
    present = set(folder.folders())

    def names(name: str) -> list[str]:
        found = (folder / name).files() if name in present else []
        return [file for file in found if file.lower().endswith(SUFFIXES)]

    with ThreadPoolExecutor(LISTING_THREADS) as pool:
        per_class = list(pool.map(names, classes))
    files = [
        folder / name / file
        for name, found in zip(classes, per_class, strict=True)
        for file in found
    ]
    sizes = [len(found) for found in per_class]
    return files, np.repeat(np.arange(len(classes), dtype=np.int64), sizes)


def find_geometry(folder: Place, files: list[Place], image_size: int | None) -> Geometry:
    """Return the array that the pictures become, from their headers alone.

    Grey when all pictures are grey, else RGB. Without `image_size` all must have one size, else
    UserError names two that differ. Headers are read only until the answer is known.
    """
    channels, first = 1, None
    for file, header in _headers(files):
        channels = max(channels, header.channels)
        first = first or (file, header)
        size, expected = (header.width, header.height), (first[1].width, first[1].height)
        if image_size is None and size != expected:
            raise UserError(
                f"{folder}: images differ in size ({first[0].name}: {expected[0]} x "
                f"{expected[1]}, {file.name}: {size[0]} x {size[1]}); pass --image-size"
            )
        if image_size is not None and channels == 3:
            break
    if first is None:
        raise UserError(f"{folder}: no images in its class folders ({SUFFIXES_TEXT})")
    return Geometry.of(channels, first[1].height, first[1].width, image_size)


def _headers(files: list[Place]) -> Iterator[tuple[Place, Any]]:
    """Yield every file with its header, read ahead by a few threads, a block at a time."""
    with ThreadPoolExecutor(LISTING_THREADS) as pool:
        for start in range(0, len(files), 256):
            block = files[start : start + 256]
            yield from zip(block, pool.map(lambda f: read_header(f, f), block), strict=True)


def _portion(files: list[Place], labels: Labels, portion: str) -> tuple[list[Place], Labels]:
    """Return the train or the test part of a folder that has no split folders."""
    if not files:
        return files, labels
    chosen = seeded_part(labels, portion)
    return [files[index] for index in chosen], labels[chosen]


def fingerprint(files: list[Place]) -> int:
    """Return a number that tells these files' folders and names, in order, from others."""
    return zlib.crc32("\n".join("/".join(file.uri.split("/")[-2:]) for file in files).encode())
