"""Data sets by name, each with all its facts; `open_split` opens one split of one of them.

Importing this package loads neither torch nor numpy: the names can be listed without them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rsray.family import Family, lazy_names

if TYPE_CHECKING:
    from rsray.data._base import DatasetSpec, ImageSplit
    from rsray.data.opening import absolute_root, open_split
    from rsray.data.splits import selected, subset, train_validation

DATASETS: Family[DatasetSpec] = Family(
    "data set",
    {
        "digits": "rsray.data.digits:DIGITS",
        "mnist": "rsray.data.mnist:MNIST",
        "fashion-mnist": "rsray.data.fashion_mnist:FASHION_MNIST",
        "svhn": "rsray.data.svhn:SVHN",
        "cifar10": "rsray.data.cifar10:CIFAR10",
        "imagenet": "rsray.data.imagenet:IMAGENET",
        "mini-imagenet50": "rsray.data.imagenet:MINI_IMAGENET50",
        "imagefolder": "rsray.data.imagefolder:IMAGEFOLDER",
        "parquet": "rsray.data.parquet:PARQUET",
        "webdataset": "rsray.data.webdataset:WEBDATASET",
    },
)

__all__ = [
    "DATASETS",
    "DatasetSpec",
    "ImageSplit",
    "absolute_root",
    "open_split",
    "selected",
    "subset",
    "train_validation",
]

__getattr__ = lazy_names(
    {
        **dict.fromkeys(("DatasetSpec", "ImageSplit"), "rsray.data._base"),
        **dict.fromkeys(("absolute_root", "open_split"), "rsray.data.opening"),
        **dict.fromkeys(("selected", "subset", "train_validation"), "rsray.data.splits"),
    }
)
