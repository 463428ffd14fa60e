"""Street View House Numbers from the original .mat files (format 2, cropped digits)."""

import io
from functools import partial
from typing import Any

import numpy as np

from rsray.data._base import DataNotFoundError, DatasetSpec, ImageSplit, Labels, Pixels, ReadOptions
from rsray.data.reading.download import fetch_with_torchvision
from rsray.data.reading.in_memory import ArraySplit
from rsray.errors import UserError
from rsray.storage import Place, one_line

SPLITS = ("train", "test", "extra")


def open_svhn(split: str, root: Place, options: ReadOptions) -> ImageSplit:
    """Return a split; raises DataNotFoundError when its file is in none of the known places."""
    places = [place / f"{split}_32x32.mat" for place in (root, root / "svhn")]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise DataNotFoundError([str(place) for place in places])
    return ArraySplit(
        name="svhn", split=split, num_classes=10, image_shape=(3, 32, 32), load=partial(load, file)
    )


def load(file: Place) -> tuple[Pixels, Labels]:
    """Return images uint8 [N, 3, 32, 32] and labels int64 [N]; UserError names a bad file."""
    from scipy.io import loadmat

    # scipy's stubs know only paths
    data: Any = io.BytesIO(file.read_bytes())
    try:
        content = loadmat(data, variable_names=["X", "y"])
        pixels, labels = content["X"], content["y"].astype(np.int64).reshape(-1)
    except Exception as error:  # scipy raises nearly anything on damaged bytes
        raise UserError(f"{file}: truncated or damaged: {one_line(error)}") from error
    if pixels.ndim != 4 or pixels.dtype != np.uint8:
        raise UserError(f"{file}: X is {pixels.dtype} {pixels.shape}, must be uint8 (H, W, C, N)")
    # The authors wrote the digit 0 as 10
    labels[labels == 10] = 0
    return np.ascontiguousarray(pixels.transpose(3, 2, 0, 1)), labels


SVHN = DatasetSpec(
    name="svhn",
    num_classes=10,
    class_names=tuple("0123456789"),
    image_shape=(3, 32, 32),
    open=open_svhn,
    how_to_get="train_32x32.mat and test_32x32.mat from http://ufldl.stanford.edu/housenumbers",
    splits=SPLITS,
    statistics=((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    fetch=partial(fetch_with_torchvision, "SVHN"),
    # As on CIFAR-10: MACER's code, whose figures the presets cite, flips the digits too.
    augmentation="crop-flip",
    training={"model": "resnet110", "epochs": 150, "lr": 0.01, "lr_drops": (60, 120)},
    # The papers' own choice on CIFAR-10: the whole test set is days of draws on a laptop.
    search={"skip": 20},
)
