"""The papers' settings as data, one YAML file per paper, and what stands in where none has any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rsray.config import TrainConfig, nest
from rsray.data import DATASETS, ImageSplit
from rsray.family import choose
from rsray.objectives import OBJECTIVES
from rsray.presets.catalogue import Preset, matching, preset, presets, published_for
from rsray.presets.own_pictures import own_picture_settings

__all__ = [
    "Preset",
    "fit_to_data",
    "matching",
    "preset",
    "presets",
    "published_for",
    "search_config",
    "train_config",
]


def train_config(
    flat: dict[str, Any],
    *,
    preset_name: str | None = None,
    base: dict[str, Any] | None = None,
    usual: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """Return the configuration of a training run: defaults, then preset or `base`, then `flat`.

    The defaults are `usual` (flat settings), else what the data set says. When `epochs` is changed,
    what is counted in epochs moves in proportion unless it is in `flat`.
    """
    start = dict(base or {})
    if preset_name is not None:
        start = nest(preset(preset_name).settings)
        start["preset"] = preset_name
    elif not start:
        start = nest(usual) if usual else _defaults(flat)
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


def fit_to_data(config: TrainConfig, flat: dict[str, Any], split: ImageSplit) -> TrainConfig:
    """Return the configuration that `flat` makes of what its user's own training images want."""
    images = min(len(split), config.limit or len(split))
    usual = own_picture_settings(config.objective, split.image_shape, images)
    return train_config(flat, usual=usual)


def _defaults(flat: dict[str, Any]) -> dict[str, Any]:
    """Return what a run starts from when no preset is named: what its data set says."""
    usual = TrainConfig.model_fields["objective"].default
    objective = choose(flat.get("objective", usual), OBJECTIVES, "objective")
    chosen: dict[str, Any] = {"objective": objective}
    if str(flat.get("dataset")) in DATASETS:
        spec = DATASETS[flat["dataset"]]
        chosen |= {**spec.training, **spec.settings.get(objective, {})}
    chosen |= OBJECTIVES[objective].training
    return nest(chosen)
