"""What a search takes for granted unless told: how long trials are, what they are judged on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rsray.config import TrainConfig
from rsray.data import dataset_spec

VALIDATION, VALIDATION_IMAGES = 0.15, 2_000  # a look at more images than this costs epochs
LOOKS = 8  # at a trial that is not stopped
# digits is the first thing that anyone runs: it must end within minutes on two cores.
DIGITS = {"trials": 5, "n": 10_000, "compare": False}
IMAGENET_SHORTER = 4  # a trial costs GPU-days even so
# The papers' own choice on CIFAR-10: all of these test sets are days of draws on a laptop.
FINAL_SKIP = {"mnist": 20, "svhn": 20, "cifar10": 20}


def search_defaults(
    train: TrainConfig, images: int, trial_epochs: int | None, space: Mapping[str, str]
) -> dict[str, Any]:
    """Return fields of TuneConfig for a run on so many training images.

    A trial has as many epochs as the run, on ImageNet a quarter, unless the space varies them.
    """
    found: dict[str, Any] = dict(DIGITS) if train.dataset == "digits" else {}
    if trial_epochs is None and train.dataset == "imagenet" and "epochs" not in space:
        trial_epochs = -(-train.epochs // IMAGENET_SHORTER)
        found["trial_epochs"] = trial_epochs
    found["skip"] = FINAL_SKIP.get(train.dataset, dataset_spec(train.dataset).skip)
    found["report_every"] = max(1, (trial_epochs or train.epochs) // LOOKS)
    found["validation"] = min(VALIDATION, round(VALIDATION_IMAGES / images, 6))
    return found
