"""MNIST from the original idx files, in any of torchvision's layouts."""

from functools import partial

from rsray.data._base import DatasetSpec
from rsray.data.reading.download import fetch_with_torchvision
from rsray.data.reading.idx import IdxSet

FIRST_LABELS = {"train": "50419213143536172869", "test": "72104149590690159734"}

MNIST = DatasetSpec(
    name="mnist",
    num_classes=10,
    class_names=tuple("0123456789"),
    image_shape=(1, 28, 28),
    open=IdxSet("mnist", "MNIST/raw", FIRST_LABELS).open,
    how_to_get="the four *-ubyte[.gz] files of torchvision's MNIST",
    fetch=partial(fetch_with_torchvision, "MNIST"),
    training={"model": "lenet", "epochs": 30, "lr": 0.01, "lr_drops": (10, 20)},
    settings={"macer": {"trade_off": 16.0}},
    # The papers' own choice on CIFAR-10: the whole test set is days of draws on a laptop.
    search={"skip": 20},
)
