"""Which folders are classes, and which files below them are pictures."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from pyarrow import fs

from rsray.data.reading.decode import SUFFIXES
from rsray.data.splits import normal
from rsray.errors import UserError
from rsray.storage import Place, one_line
from rsray.storage.place import open_filesystem

log = logging.getLogger(__name__)
# Listing waits for the network, not for the CPU
LISTING_THREADS = 16
# Folders and files that other programs leave behind; hidden ones are left out anyway.
CLUTTER_FOLDERS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information")
CLUTTER_FILES = ("thumbs.db", "desktop.ini")
# Formats that are not read: a folder of such pictures is a class, not something beside the data.
UNREAD_PICTURES = (".heic", ".heif", ".jxl", ".svg", ".psd", ".dng", ".cr2", ".nef", ".arw", ".npy")


@dataclass
class Listing:
    """What lies below the folder of a class."""

    # Of the pictures, from the split's folder on
    paths: list[str] = field(default_factory=list)
    # Suffixes of the other files
    left_out: Counter[str] = field(default_factory=Counter)


def class_folders(folder: Place) -> dict[str, list[str]]:
    """Return the folders of each class by its name, sorted by it.

    Two folders are one class when their names differ only in their Unicode form.
    """
    found: dict[str, list[str]] = {}
    for name in folder.folders():
        if name not in CLUTTER_FOLDERS:
            found.setdefault(normal(name), []).append(name)
    return dict(sorted(found.items()))


def classes_with_pictures(splits: Sequence[Place]) -> tuple[str, ...]:
    """Return the sorted names of the classes that have a picture in any split's folder.

    Empty folders are no classes: they are named in a warning, and so are classes that only one of
    the splits has, and pictures that lie beside the class folders.
    """
    per_split = [class_folders(split) for split in splits]
    names = sorted({name for folders in per_split for name in folders})

    def look(name: str) -> list[Listing]:
        return [
            _first_picture(split, folders.get(name, ()))
            for split, folders in zip(splits, per_split, strict=True)
        ]

    with ThreadPoolExecutor(LISTING_THREADS) as pool:
        found = dict(zip(names, pool.map(look, names), strict=True))
    classes = tuple(name for name in names if any(listing.paths for listing in found[name]))
    empty = [name for name in names if name not in classes]
    for name in empty if classes else ():
        suffixes = [suffix for listing in found[name] for suffix in listing.left_out]
        if unread := [suffix for suffix in dict.fromkeys(suffixes) if suffix in UNREAD_PICTURES]:
            raise UserError(
                f"{splits[0]}: all pictures of the class {name!r} are {', '.join(unread)}, which "
                "are not read: save them as .png or .jpg"
            )
    if empty and classes:
        log.warning("%s: no classes, since without pictures: %s", splits[0], ", ".join(empty))
    for number, split in enumerate(splits):
        _warn_of(split, [name for name in classes if not found[name][number].paths])
    return classes


def _first_picture(split: Place, folders: Sequence[str]) -> Listing:
    """Return the first picture in these folders, if there is one, and the files before it."""
    listing = Listing()
    pictures = (path for name in folders for path in _pictures(split, name, listing.left_out))
    listing.paths = list(islice(pictures, 1))
    return listing


def _warn_of(split: Place, lacking: list[str]) -> None:
    """Say of which classes a split has no picture, and that it has some beside its classes."""
    if lacking:
        named = ", ".join(lacking[:5]) + (", ..." if len(lacking) > 5 else "")
        log.warning("%s has no picture of %d classes: %s", split, len(lacking), named)
    beside = sum(name.lower().endswith(SUFFIXES) for name in split.files())
    if beside:
        log.warning("%s: pictures beside the class folders are not read: %d", split, beside)


def pictures_below(folder: Place, name: str) -> Listing:
    """Return the pictures in the folder `name` and in all folders below it, in torchvision's order.

    Raises UserError for a file called a picture that is a pipe, a socket or a broken link.
    """
    listing = Listing()
    listing.paths = sorted(
        _pictures(folder, name, listing.left_out), key=lambda path: path.rpartition("/")[::2]
    )
    return listing


def name_left_out(folder: Place, listings: Sequence[Listing]) -> None:
    """Say in one warning which files below the class folders are not read."""
    left_out = sum((listing.left_out for listing in listings), Counter())
    if left_out:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in left_out.most_common(5))
        log.warning(
            "%s: %d files in class folders are not read as pictures (%s)",
            folder, left_out.total(), kinds,
        )  # fmt: skip


def _pictures(folder: Place, name: str, left_out: Counter[str]) -> Iterator[str]:
    """Yield the path of each picture below the folder `name`; counts the other files' suffixes."""
    if folder.is_local:
        walk = _walk_local(folder.local_path / name, name, (_identity(folder.local_path),))
    else:
        walk = _walk(folder, name)
    for path in walk:
        base = path.rpartition("/")[2]
        stem, dot, suffix = base.lower().rpartition(".")
        if base.lower().endswith(SUFFIXES):
            yield path
        elif base.lower() not in CLUTTER_FILES:
            left_out[f".{suffix}" if dot and stem else "without a suffix"] += 1


def _walk_local(folder: Path, shown: str, above: tuple[tuple[int, int], ...] = ()) -> Iterator[str]:
    """Yield the files below a folder, through links as torchvision does, but in no circle."""
    try:
        own = _identity(folder)
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as problem:
        raise UserError(f"cannot read {folder}: {one_line(problem)}") from problem
    if own in above:
        return
    for entry in entries:
        path = f"{shown}/{entry.name}"
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if entry.name not in CLUTTER_FOLDERS:
                yield from _walk_local(folder / entry.name, path, (*above, own))
        elif entry.is_file() or not entry.name.lower().endswith(SUFFIXES):
            yield path
        else:
            raise UserError(f"{entry.path} is no regular file: a pipe, a device or a broken link")


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _walk(folder: Place, name: str) -> Iterator[str]:
    """Yield the files below a folder of a store, which lists them all at once."""
    filesystem, base = open_filesystem(folder.uri)
    below = fs.FileSelector(f"{base}/{name}", recursive=True)
    try:
        infos: list[Any] = filesystem.get_file_info(below)
    except OSError as problem:
        raise UserError(f"cannot read {folder}: {one_line(problem)}") from problem
    for info in infos:
        path = info.path.strip("/").removeprefix(base.strip("/")).strip("/")
        parts = path.split("/")
        if info.type == fs.FileType.File and not any(
            part.startswith(".") or part in CLUTTER_FOLDERS for part in parts
        ):
            yield path
