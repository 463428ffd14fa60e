"""Opening a split of a data set: where it is looked for, checked, and downloaded from."""

from __future__ import annotations

import os
from dataclasses import replace

from rsray.data import DATASETS
from rsray.data._base import DataNotFoundError, DatasetSpec, ImageSplit, ReadOptions
from rsray.data.reading.class_names import refuse_doubtful
from rsray.data.reading.download import download as download_split
from rsray.errors import UserError
from rsray.storage import Place

DEFAULT_ROOT = "./data"
ROOT_VARIABLE = "RSRAY_DATA_ROOT"


def absolute_root(name: str, root: str | None) -> str | None:
    """Return where a data set is looked for, as a process in another folder must be told it."""
    if DATASETS[name].embedded:
        return root
    return Place.of(root or _default_root()).uri


def _default_root() -> str:
    return os.environ.get(ROOT_VARIABLE) or DEFAULT_ROOT


def open_split(
    name: str,
    split: str,
    root: str | None = None,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    label_column: str | None = None,
    download: bool = False,
) -> ImageSplit:
    """Return a split of a data set found below `root`, its labels read and checked.

    `root` is a local path or a URI; None means the variable RSRAY_DATA_ROOT, else ./data. Of the
    user's own data, `channels` (1 or 3) says what pictures become, `label_column` which column or
    .json field holds the classes. With `download` a data set that is missing is fetched first,
    where torchvision can. Raises UserError, in one line, when the name, the split, an option or the
    files are not as they must be.
    """
    spec = DATASETS[name]
    if split not in spec.splits:
        raise UserError(f"{name} has no split {split!r}: allowed: {', '.join(spec.splits)}")
    options = ReadOptions(image_size, channels, label_column)
    _check_options(spec, options)
    place = Place.of(root or _default_root())
    found = _open(spec, split, place, options, download)
    if found.class_names is None and spec.class_names is not None:
        found = replace(found, class_names=spec.class_names)
    if spec.is_own:
        refuse_doubtful(found.classes, f"{name} below {place}")
    # Reads the labels: damage shows here, not on a worker
    if not len(found):
        raise UserError(f"{name} ({split}) below {place}: the split has no images")
    return found


def _open(
    spec: DatasetSpec, split: str, place: Place, options: ReadOptions, download: bool
) -> ImageSplit:
    """Open a split, after a download if it is missing and one is wanted."""
    try:
        return spec.open(split, place, options)
    except DataNotFoundError as missing:
        if not download or spec.fetch is None:
            pass_download = " or pass --download" if spec.fetch else ""
            raise UserError(
                f"{spec.name} ({split}) not found; looked for {', '.join(missing.places)}; "
                f"to get it: {spec.how_to_get}{pass_download}"
            ) from None
    download_split(spec.name, spec.fetch, place)
    return _open(spec, split, place, options, download=False)


def _check_options(spec: DatasetSpec, options: ReadOptions) -> None:
    """Raise UserError for an option that is no choice of this data set."""
    _check_image_size(spec, options.image_size)
    if options.channels not in (None, 1, 3):
        raise UserError(f"channels {options.channels}: must be 1 (grey) or 3 (colour)")
    if options.channels is not None and not spec.is_own:
        raise UserError(f"channels may be chosen for data of your own: {spec.name} has its own")
    if options.label_column is not None and not spec.has_label_column:
        raise UserError(f"label column {options.label_column!r}: {spec.name} has no label columns")


def _check_image_size(spec: DatasetSpec, image_size: int | None) -> None:
    if image_size is None:
        return
    if image_size < 1:
        raise UserError(f"image size {image_size}: must be at least 1")
    if not spec.resizable and spec.image_shape and spec.image_shape[1:] != (image_size,) * 2:
        sizable = ", ".join(name for name, other in DATASETS.items() if other.resizable)
        raise UserError(
            f"image size {image_size}: {spec.name} images are {spec.image_shape[1]} pixels; "
            f"a size may be chosen for {sizable}"
        )
