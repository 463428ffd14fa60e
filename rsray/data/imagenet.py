"""ImageNet (ILSVRC 2012): folders, Parquet shards or WebDataset tar; and 50 classes of it."""

# Shapes: N images of the split, n images asked for, K classes.
import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rsray.data._base import (
    DataNotFoundError,
    DatasetSpec,
    ImageSplit,
    Indices,
    Labels,
    Pixels,
    ReadOptions,
)
from rsray.data.imagefolder import split_folders, union_of_classes
from rsray.data.parquet import open_shards
from rsray.data.reading.decode import Geometry
from rsray.data.reading.derived import DerivedSplit
from rsray.data.reading.folder import FolderSplit
from rsray.data.reading.shard_files import TAR_FILES, find_shards
from rsray.data.webdataset import open_tar_shards
from rsray.errors import UserError
from rsray.storage import Place

# pixels, of the published evaluations
CROP, SHORT_SIDE = 224, 256
NUM_CLASSES, SYNSET = 1000, re.compile(r"n\d{8}")
MINI_CLASSES, MINI_SEED = 50, 0
SHARD_FOLDERS = ("", "data")
# ImageNet's own test images have no labels: "test" is its validation set.
FOLDER_NAMES = {"train": ("train",), "test": ("val", "validation")}
SHARD_NAMES = {"train": ("train",), "test": ("validation", "val")}


def open_imagenet(split: str, root: Place, options: ReadOptions) -> ImageSplit:
    """Return a split ("test" is the validation set); raises DataNotFoundError when missing."""
    return _open("imagenet", split, [root / "imagenet", root], options, None)


def open_mini_imagenet(split: str, root: Place, options: ReadOptions) -> ImageSplit:
    """Return a split of 50 classes, relabelled 0..49 in the order of their synsets."""
    places = [root / "mini-imagenet50", root / "imagenet", root]
    return _open("mini-imagenet50", split, places, options, MINI_CLASSES)


def mini_classes(num_classes: int) -> Labels:
    """Return the 50 chosen class indices, sorted, of `num_classes` sorted synsets."""
    if num_classes < MINI_CLASSES:
        raise UserError(
            f"mini-imagenet50: found {num_classes} classes of ImageNet, needs {MINI_CLASSES}"
        )
    chosen = np.random.default_rng(MINI_SEED).choice(num_classes, MINI_CLASSES, replace=False)
    return np.sort(chosen).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class ClassSubset(DerivedSplit):
    """The images of some classes of another split, relabelled 0..K-1 in the order of `kept`."""

    # Classes of the base, ascending
    kept: tuple[int, ...]

    @cached_property
    def _rows(self) -> Labels:
        rows = np.flatnonzero(np.isin(self.base.labels, self.kept))
        if not rows.size:
            raise UserError(f"{self.name} ({self.split}): no image of its classes was found")
        return rows

    @cached_property
    def image_names(self) -> tuple[str, ...]:
        """The base's names of these images [N]."""
        names = self.base.image_names
        return tuple(names[row] for row in self._rows) if names else ()

    def stored(self, indices: Indices) -> list[bytes]:
        """Return what the base holds of these images."""
        return self.base.stored(self._rows[np.asarray(indices, np.int64)])

    def _read_labels(self) -> Labels:
        return np.searchsorted(self.kept, self.base.labels[self._rows]).astype(np.int64)

    def _read_images(self, indices: Labels) -> Pixels:
        return self.base.images(self._rows[indices])


def _open(
    name: str, split: str, places: list[Place], options: ReadOptions, keep: int | None
) -> ImageSplit:
    """Return the split from the first place that has it; `keep` asks for the mini classes."""
    crop = options.image_size or CROP
    short_side = round(crop * SHORT_SIDE / CROP)
    # As stored, whatever EXIF says: so the published evaluations read them.
    geometry = Geometry(3, crop, crop, short_side=short_side, upright=False)
    for place in places:
        folders = split_folders(place, FOLDER_NAMES) if place.is_dir() else {}
        if split in folders:
            classes = union_of_classes(folders)
            _check_order(classes, f"{place}: folder", "imagefolder")
            # Only these folders are listed then
            if keep is not None:
                classes = tuple(classes[index] for index in mini_classes(len(classes)))
            return FolderSplit.of(name, split, folders[split], classes, geometry)
        for folder in SHARD_FOLDERS:
            shards = find_shards(place / folder, SHARD_NAMES)
            if split in shards:
                base: ImageSplit = open_shards(name, split, shards, geometry)
                _check_order(base.classes, f"{shards[split][0]}: class", "parquet")
                return base if keep is None else _mini(base)
            tars = find_shards(place / folder, SHARD_NAMES, TAR_FILES)
            if split in tars:
                base = open_tar_shards(name, split, tars, geometry, place / folder)
                _check_order(base.classes, f"{tars[split][0]}: class", "webdataset")
                return base if keep is None else _mini(base)
    synsets, files = FOLDER_NAMES[split][0], SHARD_NAMES[split][0]
    layouts = (f"{synsets}/<synset>/*.JPEG", f"[data/]{files}-*.parquet", f"[data/]*{files}*.tar")
    raise DataNotFoundError([f"{place}/{layout}" for place in places for layout in layouts])


def _check_order(classes: tuple[str, ...], where: str, takes_any: str) -> None:
    """Raise UserError for a thousand classes that may not be in ImageNet's order.

    Its order is that of the synsets' names; numbers from 0 on are in it, too. Other names are in it
    where the data number them, but not where somebody sorted them: that is the alphabet's order.
    """
    numbers = [int(name) for name in classes if name.isdecimal()]
    if len(classes) != NUM_CLASSES or numbers == list(range(NUM_CLASSES)):
        return
    in_order, are_numbers = sorted(classes), len(numbers) == NUM_CLASSES
    other = next((name for name in classes if not SYNSET.fullmatch(name)), None)
    if other is not None and (are_numbers or list(classes) == in_order):
        raise UserError(
            f"{where} {other!r} is named by no synset (n01440764), so the order of its "
            f"{NUM_CLASSES:,} classes is not known; --dataset {takes_any} takes any names"
        )
    moved = next((a for a, b in zip(classes, in_order, strict=True) if a != b), None)
    if other is None and moved is not None:
        raise UserError(
            f"{where} {moved!r} has number {classes.index(moved)}, but ImageNet numbers its "
            f"classes in the order of their synsets; --dataset {takes_any} takes any order"
        )


def _mini(base: ImageSplit) -> ImageSplit:
    """Return the mini classes of a split, named as it names them: by their numbers where it does.

    Were they called 0, 1, ... then, a network that knows all classes would take them for its first.
    """
    kept = tuple(int(index) for index in mini_classes(base.num_classes))
    chosen = tuple(base.classes[index] for index in kept)
    return ClassSubset.of(base, num_classes=len(kept), class_names=chosen, kept=kept)


IMAGENET_STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The papers' recipe, but for the batch.
IMAGENET_TRAINING = {
    "model": "resnet50",
    "epochs": 120,
    "lr": 0.1,
    "lr_drops": (30, 60, 90),
    "weight_decay": 1e-4,
}
IMAGENET_SETTINGS = {"macer": {"num_draws": 2, "trade_off": 6.0}}

IMAGENET = DatasetSpec(
    name="imagenet",
    # 1,000, or as many class folders as there are
    num_classes=None,
    image_shape=(3, CROP, CROP),
    open=open_imagenet,
    how_to_get="train/<synset>/*.JPEG and val/<synset>/*.JPEG from https://image-net.org, or the "
    "Parquet shards of https://huggingface.co/datasets/ILSVRC/imagenet-1k, or the tar files of "
    "https://huggingface.co/datasets/timm/imagenet-1k-wds",
    statistics=IMAGENET_STATISTICS,
    augmentation="random-resized-crop",
    training={**IMAGENET_TRAINING, "batch_size": 256},
    settings=IMAGENET_SETTINGS,
    skip=100,
    ordered_classes=NUM_CLASSES,
    # A trial costs GPU-days even so.
    shorter_trials=4,
    # The papers' own number.
    gpu_workers=4,
    resizable=True,
)

MINI_IMAGENET50 = DatasetSpec(
    name="mini-imagenet50",
    num_classes=MINI_CLASSES,
    image_shape=(3, CROP, CROP),
    open=open_mini_imagenet,
    how_to_get="the same files as imagenet",
    training={**IMAGENET_TRAINING, "batch_size": 64},
    settings=IMAGENET_SETTINGS,
    statistics=IMAGENET_STATISTICS,
    augmentation="random-resized-crop",
    resizable=True,
)
