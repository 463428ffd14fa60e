"""MNIST from the original idx files, in any of torchvision's layouts."""

import gzip
import zlib
from functools import partial

import numpy as np

from rsray.data._base import DataNotFoundError, DatasetSpec, ImageSplit, Labels, Pixels, ReadOptions
from rsray.data.reading.in_memory import ArraySplit
from rsray.errors import UserError
from rsray.storage import Place, one_line

PREFIXES = {"train": "train", "test": "t10k"}
FOLDERS = ("", "raw", "MNIST/raw")
# The type code of the idx format
UNSIGNED_BYTE = 8


def open_mnist(split: str, root: Place, options: ReadOptions) -> ImageSplit:
    """Return a split; raises DataNotFoundError when the files are in none of the known places."""
    images, labels = _find(root, PREFIXES[split])
    return ArraySplit(
        name="mnist",
        split=split,
        num_classes=10,
        image_shape=(1, 28, 28),
        load=partial(load, images, labels),
    )


def load(images: Place, labels: Place) -> tuple[Pixels, Labels]:
    """Return images uint8 [N, 1, 28, 28] and labels int64 [N]; UserError names a bad file."""
    return read_idx(images, num_dimensions=3)[:, None], read_idx(labels, 1).astype(np.int64)


def read_idx(file: Place, num_dimensions: int) -> Pixels:
    """Return the array of an idx file (or .gz of one); raises UserError when it is damaged."""
    data = _unpacked(file)
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


def _unpacked(file: Place) -> bytes:
    data = file.read_bytes()
    if not file.name.endswith(".gz"):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file}: truncated or damaged: {one_line(error)}") from error


def _find(root: Place, prefix: str) -> tuple[Place, Place]:
    """Return the locations of the images and the labels."""
    folders = [place / folder for place in (root, root / "mnist") for folder in FOLDERS]
    names = f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"
    for folder in folders:
        for suffix in ("", ".gz"):
            images, labels = (folder / (name + suffix) for name in names)
            if images.is_file() and labels.is_file():
                return images, labels
    raise DataNotFoundError([str(folder / f"{names[0]}[.gz]") for folder in folders])


def fetch(folder: str) -> None:
    """Download both splits with torchvision."""
    from torchvision import datasets  # type: ignore[import-untyped]

    datasets.MNIST(folder, download=True)


MNIST = DatasetSpec(
    name="mnist",
    num_classes=10,
    class_names=tuple("0123456789"),
    image_shape=(1, 28, 28),
    open=open_mnist,
    how_to_get="the four *-ubyte[.gz] files of torchvision's MNIST",
    fetch=fetch,
    training={"model": "lenet", "epochs": 30, "lr": 0.01, "lr_drops": (10, 20)},
    settings={"macer": {"trade_off": 16.0}},
    # The papers' own choice on CIFAR-10: the whole test set is days of draws on a laptop.
    search={"skip": 20},
)
