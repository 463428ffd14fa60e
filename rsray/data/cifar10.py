"""CIFAR-10 from Hugging Face Parquet, from torchvision's pickled batches, or from class folders."""

# Shapes: N images.
import re
from functools import partial

import numpy as np

from rsray.data._base import DataNotFoundError, DatasetSpec, ImageSplit, Labels, Pixels, ReadOptions
from rsray.data.imagefolder import split_folders, union_of_classes
from rsray.data.parquet import open_shards
from rsray.data.reading.decode import Geometry
from rsray.data.reading.derived import CachedSplit
from rsray.data.reading.download import fetch_with_torchvision
from rsray.data.reading.folder import FolderSplit
from rsray.data.reading.in_memory import ArraySplit
from rsray.data.reading.restricted_pickle import load_arrays
from rsray.data.reading.shard_files import find_shards
from rsray.errors import UserError
from rsray.storage import Place

CLASSES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
GEOMETRY = Geometry(3, 32, 32)
BATCHES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
BATCH_FOLDER = "cifar-10-batches-py"
SHARD_FOLDERS = ("plain_text", "data", "")


def open_cifar10(split: str, root: Place, options: ReadOptions) -> ImageSplit:
    """Return a split; raises DataNotFoundError when no known place has a known layout."""
    places = [root / "cifar10", root]
    for place in (place for place in places if place.is_dir()):
        found = _from_shards(place, split) or _from_batches(place, split)
        found = found or _from_folders(place, split)
        if found is not None:
            return found
    raise DataNotFoundError(
        [
            f"{place}/{layout}"
            for place in places
            for layout in (f"plain_text/{split}-*.parquet", BATCH_FOLDER, f"{split}/<class>/*.png")
        ]
    )


def load_batches(files: tuple[Place, ...]) -> tuple[Pixels, Labels]:
    """Return images uint8 [N, 3, 32, 32] and labels int64 [N] of torchvision's batch files."""
    batches = [_load_batch(file) for file in files]
    images, labels = zip(*batches, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _load_batch(file: Place) -> tuple[Pixels, Labels]:
    content = load_arrays(file)
    content = content if isinstance(content, dict) else {}
    data, labels = content.get("data"), content.get("labels")
    if not (
        isinstance(data, np.ndarray)
        and data.dtype == np.uint8
        and data.shape[1:] == (3 * 32 * 32,)
        and isinstance(labels, list)
        and all(isinstance(label, int) for label in labels)
        and len(labels) == len(data)
    ):
        raise UserError(f"{file}: not a CIFAR-10 batch (data uint8 [N, 3072], labels list of N)")
    return data.reshape(-1, 3, 32, 32), np.asarray(labels, np.int64)


def _from_shards(place: Place, split: str) -> ImageSplit | None:
    for folder in SHARD_FOLDERS:
        shards = find_shards(place / folder)
        if split in shards:
            return CachedSplit.of(open_shards("cifar10", split, shards, GEOMETRY, CLASSES))
    return None


def _from_batches(place: Place, split: str) -> ImageSplit | None:
    for folder in (place / BATCH_FOLDER, place):
        files = tuple(folder / name for name in BATCHES[split])
        if files[0].is_file():
            return ArraySplit(
                name="cifar10",
                split=split,
                num_classes=10,
                image_shape=GEOMETRY.shape,
                class_names=CLASSES,
                load=partial(load_batches, files),
            )
    return None


def _from_folders(place: Place, split: str) -> ImageSplit | None:
    folders = split_folders(place)
    if split not in folders:
        return None
    classes = union_of_classes(folders)
    numbers = "".join(re.sub("[^0-9]", "", name) for name in classes)
    # A checkpoint knows classes by number: folders of other names may stand in another order.
    if classes != CLASSES and (len(classes), numbers) != (10, "0123456789"):
        raise UserError(
            f"cifar10: {folders[split]} must have the class folders {', '.join(CLASSES)}, or 0..9; "
            f"it has {len(classes)}: {', '.join(classes[:12])}"
        )
    folder = FolderSplit.of("cifar10", split, folders[split], classes, GEOMETRY)
    return CachedSplit.of(folder)


CIFAR10 = DatasetSpec(
    name="cifar10",
    num_classes=10,
    class_names=CLASSES,
    image_shape=GEOMETRY.shape,
    open=open_cifar10,
    how_to_get="the Parquet files of https://huggingface.co/datasets/uoft-cs/cifar10, or "
    "cifar-10-batches-py of torchvision",
    # As in Cohen et al.'s code.
    statistics=((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    augmentation="crop-flip",
    ordered_classes=10,
    fetch=partial(fetch_with_torchvision, "CIFAR10"),
    training={"model": "resnet110", "epochs": 150, "lr": 0.01, "lr_drops": (60, 120)},
    # The papers' own choice on CIFAR-10: the whole test set is days of draws on a laptop.
    search={"skip": 20},
)
