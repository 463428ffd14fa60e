"""scikit-learn's handwritten digits: 1,797 images of 8 x 8, installed with the library."""

import gzip
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from rsray.data._base import DatasetSpec, ImageSplit, Labels, Pixels, ReadOptions
from rsray.data.reading.in_memory import ArraySplit
from rsray.storage import Place

# In file order
NUM_TRAIN = 1347
GREY_LEVELS = 16


def load(split: str) -> tuple[Pixels, Labels]:
    """Return images uint8 [N, 1, 8, 8] and labels int64 [N]."""
    # Of scikit-learn only this file is needed: its import takes seconds.
    where = find_spec("sklearn")
    assert where is not None and where.submodule_search_locations
    file = Path(where.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    with gzip.open(file, "rt") as lines:
        table = np.loadtxt(lines, delimiter=",")
    rows = slice(None, NUM_TRAIN) if split == "train" else slice(NUM_TRAIN, None)
    images, labels = table[rows, :-1].reshape(-1, 1, 8, 8), table[rows, -1]
    return np.rint(images * (255 / GREY_LEVELS)).astype(np.uint8), labels.astype(np.int64)


def open_digits(split: str, root: Place, options: ReadOptions) -> ImageSplit:
    """Return a split; the root and the options are not looked at."""
    return ArraySplit(
        name="digits", split=split, num_classes=10, image_shape=(1, 8, 8), load=partial(load, split)
    )


DIGITS = DatasetSpec(
    name="digits",
    num_classes=10,
    class_names=tuple("0123456789"),
    image_shape=(1, 8, 8),
    open=open_digits,
    how_to_get="it comes with scikit-learn",
    embedded=True,
    training={"model": "lenet", "epochs": 16, "lr": 0.05, "lr_drops": (4, 14)},
    settings={"macer": {"trade_off": 4.0, "deferred": True, "num_draws": 4}},
    # It is the first thing that anyone runs: a search must end within a minute on two cores.
    search={"trials": 5, "num_draws": 64, "n": 5_000, "skip": 5, "compare": False},
    shorter_trials=2,
)
