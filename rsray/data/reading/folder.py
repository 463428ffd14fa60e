"""Pictures in one folder per class: the ImageFolder layout, local or remote."""

# Shapes: N images of the split, n images asked for, C channels, H height, W width.
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np

from rsray.data._base import ImageSplit, Indices, Labels, Pixels, ReadOptions
from rsray.data.reading.class_folders import (
    LISTING_THREADS,
    class_folders,
    name_left_out,
    pictures_below,
)
from rsray.data.reading.decode import SUFFIXES, Geometry, Header, decode_all, read_header
from rsray.data.splits import named_part, normal
from rsray.errors import UserError
from rsray.storage import Place

SUFFIXES_TEXT = "allowed: " + " ".join(SUFFIXES)


@dataclass(frozen=True, kw_only=True)
class FolderSplit(ImageSplit):
    """Pictures below `folder`/<class>/, decoded when they are asked for.

    Label k is `class_names[k]`; the images are in the order of class, folder, file name.
    """

    folder: Place
    geometry: Geometry
    # "train" or "test" of a folder without splits; None: everything
    portion: str | None = None
    # Of the file names, when unpickled
    fingerprint: int | None = None

    @classmethod
    def of(
        cls,
        name: str,
        split: str,
        folder: Place,
        classes: tuple[str, ...],
        geometry: Geometry,
        portion: str | None = None,
    ) -> Self:
        """Return the split `split` of the data set `name` with these classes."""
        return cls(
            name=name,
            split=split,
            num_classes=len(classes),
            image_shape=geometry.shape,
            class_names=classes,
            folder=folder,
            geometry=geometry,
            portion=portion,
        )

    @cached_property
    def _listed(self) -> tuple[list[str], Labels]:
        """The path of every picture below the folder [N], and its label [N]."""
        paths, labels = list_images(self.folder, self.class_names or ())
        if self.portion is not None:
            chosen = named_part(paths, labels, self.portion)
            paths, labels = [paths[index] for index in chosen], labels[chosen]
        if not paths:
            raise UserError(f"{self.folder}: no images in its class folders ({SUFFIXES_TEXT})")
        if self.fingerprint not in (None, fingerprint(paths)):
            raise UserError(f"{self.folder}: its files differ from when the run started")
        return paths, labels

    @cached_property
    def _files(self) -> tuple[list[Place], Labels]:
        paths, labels = self._listed
        return [self.folder / path for path in paths], labels

    @cached_property
    def image_names(self) -> tuple[str, ...]:
        """The path of every picture below the split's folder [N], in one Unicode form."""
        return tuple(map(normal, self._listed[0]))

    def stored(self, indices: Indices) -> list[bytes]:
        """Return the files' bytes."""
        files = [self._files[0][index] for index in indices]
        with ThreadPoolExecutor(LISTING_THREADS) as pool:
            return list(pool.map(Place.read_bytes, files))

    def _read_labels(self) -> Labels:
        return self._listed[1]

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
        if "_listed" in self.__dict__:
            state["fingerprint"] = fingerprint(self._listed[0])
        return state


def list_images(
    folder: Place, classes: tuple[str, ...], *, tell: bool = False
) -> tuple[list[str], Labels]:
    """Return the paths of these classes' pictures below a folder, in order, and their labels [N].

    With `tell` the files that are no pictures are counted in a warning.
    """
    present = class_folders(folder)
    with ThreadPoolExecutor(LISTING_THREADS) as pool:
        listings = [
            (label, pool.submit(pictures_below, folder, name))
            for label, of_class in enumerate(classes)
            for name in present.get(of_class, ())
        ]
        found = [(label, listing.result()) for label, listing in listings]
    if tell:
        name_left_out(folder, [listing for _, listing in found])
    paths = [path for _, listing in found for path in listing.paths]
    sizes = [len(listing.paths) for _, listing in found]
    labels = np.asarray([label for label, _ in found], np.int64)
    return paths, np.repeat(labels, sizes)


def find_geometry(
    folder: Place, paths: Sequence[str], options: ReadOptions, others: Iterable[Place] = ()
) -> Geometry:
    """Return the array that the pictures become, from their headers alone.

    Grey when all pictures are grey, `others` of the data set too, else RGB. Without an image size
    all must have one size, else UserError names two that differ. Headers are read only until the
    answer is known.
    """
    files = [folder / path for path in paths]
    channels, first = options.channels or 1, None
    for file, header in _headers(files):
        if not options.channels:
            channels = max(channels, header.channels)
        first = first or (file, header)
        if options.image_size is None:
            before, size = first
            if (size.width, size.height) != (header.width, header.height):
                raise UserError(
                    f"{folder}: images differ in size ({before.name}: {size.width} x "
                    f"{size.height}, {file.name}: {header.width} x {header.height}); pass "
                    "--image-size"
                )
        elif channels == 3 or options.channels:
            break
    if first is None:
        raise UserError(f"{folder}: no images in its class folders ({SUFFIXES_TEXT})")
    if channels == 1 and not options.channels:
        channels = next((3 for _, header in _headers(list(others)) if header.channels == 3), 1)
    return Geometry.of(Header(channels, first[1].height, first[1].width), options)


def _headers(files: Sequence[Place]) -> Iterator[tuple[Place, Header]]:
    """Yield every file with its header, read ahead by a few threads, a block at a time."""
    with ThreadPoolExecutor(LISTING_THREADS) as pool:
        for start in range(0, len(files), 256):
            block = files[start : start + 256]
            yield from zip(block, pool.map(lambda f: read_header(f, f), block), strict=True)


def fingerprint(paths: list[str]) -> int:
    """Return a number that tells these pictures' paths, in order, from others."""
    return zlib.crc32("\n".join(paths).encode(errors="surrogatepass"))
