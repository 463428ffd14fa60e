"""What a search takes for granted unless told: how long trials are, what they are judged on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rsray.config import TrainConfig
from rsray.data import DATASETS

# Of the training images; a look at more than so many images costs epochs.
VALIDATION_SHARE, MOST_VALIDATION_IMAGES = 0.15, 2_000
# At a trial that is not stopped.
LOOKS_PER_TRIAL = 8
# Of somebody's own pictures: a first search of minutes on two cores. More trials, and certificates
# of all test images (`rsray certify TUNE/best`), are for whoever likes what it found.
OWN_PICTURES = {"trials": 6, "num_draws": 64, "n": 2_000, "limit": 100, "compare": False}


def search_defaults(
    train: TrainConfig, images: int, trial_epochs: int | None, space: Mapping[str, str]
) -> dict[str, Any]:
    """Return fields of TuneConfig for a run on so many training images.

    A trial has as many epochs as the run, or the fewer that its data set says, unless the space
    varies them.
    """
    spec = DATASETS[train.dataset]
    usual = OWN_PICTURES if spec.is_own else spec.search
    found: dict[str, Any] = {"skip": spec.skip, **usual}
    if trial_epochs is None and spec.shorter_trials > 1 and "epochs" not in space:
        trial_epochs = -(-train.epochs // spec.shorter_trials)
        found["trial_epochs"] = trial_epochs
    looks = LOOKS_PER_TRIAL // 2 if spec.is_own or spec.embedded else LOOKS_PER_TRIAL
    found["report_every"] = max(1, (trial_epochs or train.epochs) // looks)
    found["validation"] = min(VALIDATION_SHARE, round(MOST_VALIDATION_IMAGES / images, 6))
    return found
