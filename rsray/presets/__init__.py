"""The papers' settings as data, one YAML file per paper, and each data set's training defaults."""

from __future__ import annotations

from typing import Any

from rsray.config import TrainConfig, nest
from rsray.presets.catalogue import Preset, matching, preset, presets, published_for

__all__ = [
    "DEFAULTS",
    "Preset",
    "matching",
    "preset",
    "presets",
    "published_for",
    "search_config",
    "train_config",
]

# What a data set starts from when no preset is named. A key that is no training field is a setting
# of MACER: another objective starts from its own defaults, as a weight means another thing there.
DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": {
        "model": "lenet",
        "epochs": 16,
        "lr": 0.05,
        "lr_drops": (4, 14),
        "trade_off": 4.0,
        "deferred": True,
    },
    "mnist": {"model": "lenet", "epochs": 30, "lr": 0.01, "lr_drops": (10, 20), "trade_off": 16.0},
    "svhn": {"model": "resnet110", "epochs": 150, "lr": 0.01, "lr_drops": (60, 120)},
    "cifar10": {"model": "resnet110", "epochs": 150, "lr": 0.01, "lr_drops": (60, 120)},
    "imagenet": {
        "model": "resnet50",
        "epochs": 120,
        "lr": 0.1,
        "lr_drops": (30, 60, 90),
        "batch_size": 256,
        "weight_decay": 1e-4,
        "num_draws": 2,
        "trade_off": 6.0,
    },
    "mini-imagenet50": {
        "model": "resnet50",
        "epochs": 120,
        "lr": 0.1,
        "lr_drops": (30, 60, 90),
        "batch_size": 64,
        "weight_decay": 1e-4,
        "num_draws": 2,
        "trade_off": 6.0,
    },
    "imagefolder": {"model": "resnet20", "epochs": 30, "lr_drops": (15, 25)},
    "parquet": {"model": "resnet20", "epochs": 30, "lr_drops": (15, 25)},
}


def train_config(
    flat: dict[str, Any], *, preset_name: str | None = None, base: dict[str, Any] | None = None
) -> TrainConfig:
    """Return the configuration of a training run: defaults, then preset or `base`, then `flat`.

    When `epochs` is changed, what is counted in epochs moves in proportion unless it is in `flat`.
    """
    start = dict(base or {})
    if preset_name is not None:
        start = nest(preset(preset_name).settings)
        start["preset"] = preset_name
    elif not start:
        start = _defaults(flat)
    values = nest(flat, start)
    epochs = flat.get("epochs")
    if isinstance(epochs, int | float) and epochs >= 1:
        before = start.get("epochs", TrainConfig.model_fields["epochs"].default)
        moved = TrainConfig.make({**values, "epochs": before}).at_epochs(int(epochs))
        values = nest({key: value for key, value in moved.items() if key not in flat}, values)
    return TrainConfig.make(values).resolved()


def search_config(
    flat: dict[str, Any], *, preset_name: str | None = None, base: dict[str, Any] | None = None
) -> TrainConfig:
    """Return what a search starts from: as train_config, but by itself the published one.

    That is all of it (rates, batch, draws, attack, the schedule in proportion) except the number
    of epochs, which is the data set's default or in `flat`.
    """
    config = train_config(flat, preset_name=preset_name, base=base)
    entry = None if preset_name is not None or base else published_for(config)
    return train_config({**entry.at_epochs(config.epochs), **flat}) if entry else config


def _defaults(flat: dict[str, Any]) -> dict[str, Any]:
    objective = flat.get("objective", "macer")
    chosen = DEFAULTS.get(str(flat.get("dataset")), {})
    if objective != "macer":
        chosen = {key: value for key, value in chosen.items() if key in TrainConfig.model_fields}
    return nest({**chosen, "objective": objective})
