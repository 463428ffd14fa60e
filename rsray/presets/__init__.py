"""The papers' settings as data, one YAML file per paper, and what stands in where none has any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rsray.config import TrainConfig, check_names, nest, objective_fields
from rsray.data import DATASETS, ImageSplit
from rsray.family import choose
from rsray.objectives import OBJECTIVES
from rsray.presets.catalogue import Preset, matching, preset, presets, published_for
from rsray.presets.own_pictures import own_picture_settings

__all__ = [
    "WARM_START",
    "Preset",
    "fit_to_data",
    "matching",
    "preset",
    "presets",
    "published_for",
    "says_all",
    "search_config",
    "train_config",
]


# With `init`: what a network that was trained before does not need.
WARM_START = {"warm_up_epochs": 0, "deferred": False}


def train_config(
    flat: dict[str, Any],
    *,
    preset_name: str | None = None,
    base: Mapping[str, Any] | None = None,
    usual: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """Return the configuration of a training run: defaults, then preset or `base`, then `flat`.

    The defaults are `usual` (flat settings), else what the data set says. A `base` that says all of
    it, as those that rsray records, stands alone; a shorter one lies over the preset that it names,
    if it names one. When `epochs` is changed, what is counted in epochs moves in proportion unless
    it is given beside it. With `init` the objective is at work from the first epoch on, unless
    `flat`, `base` or a preset that names `init` say otherwise.
    """
    base = _without_another_objective(base or {}, flat)
    settings = base.get("settings")
    given = {*flat, *(settings if isinstance(settings, Mapping) else ())}
    if says_all(base, flat):
        start = dict(base)
    else:
        named = base.get("preset") if preset_name is None else preset_name
        if named is None:
            start = nest(usual) if usual else _defaults({**base, **flat})
        else:
            start = {**nest(preset(str(named)).settings), "preset": named}
            # One that names its start has the settings for it.
            given |= WARM_START.keys() if start.get("init") else set()
        start = _laid_over(start, _flattened(base, start["objective"]))
    values = _laid_over(start, flat)
    if values.get("init"):
        own = {*objective_fields(values["objective"])} - given
        values = nest({key: value for key, value in WARM_START.items() if key in own}, values)
    return TrainConfig.make(values).resolved()


def search_config(
    flat: dict[str, Any],
    *,
    preset_name: str | None = None,
    base: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """Return what a search starts from: as train_config, but by itself the published one.

    That is all of it (rates, batch, draws, attack, the schedule in proportion) except the number
    of epochs, which is the data set's default or given.
    """
    config = train_config(flat, preset_name=preset_name, base=base)
    if config.preset is not None or says_all(base or {}, flat):
        return config
    entry = published_for(config)
    usual = entry.at_epochs(config.epochs) if entry else None
    return train_config(flat, base=base, usual=usual)


def fit_to_data(
    config: TrainConfig,
    flat: dict[str, Any],
    split: ImageSplit,
    base: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """Return the configuration that settings make of what their user's own training images want."""
    images = min(len(split), config.limit or len(split))
    usual = own_picture_settings(config.objective, split.image_shape, images)
    return train_config(flat, base=base, usual=usual)


def says_all(base: Mapping[str, Any], flat: Mapping[str, Any]) -> bool:
    """Tell whether the settings of a file leave nothing open that a data set decides."""
    both = {**base, **flat}
    decided = _defaults(both)
    if str(both.get("dataset")) in DATASETS and DATASETS[both["dataset"]].is_own:
        decided = nest(own_picture_settings(decided["objective"], (1, 1, 1), 1))
    settings = base.get("settings")
    has_settings = isinstance(settings, Mapping) and decided["settings"].keys() <= settings.keys()
    return has_settings and decided.keys() <= base.keys()


def _without_another_objective(base: Mapping[str, Any], flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a file, without those of another objective than the one given.

    The preset that they came from is left out with them.
    """
    names = [each["objective"] for each in (base, flat) if "objective" in each]
    is_other = len(names) == 2 and names[0] != names[1]
    left_out = ("objective", "settings", "preset")
    return {k: v for k, v in base.items() if not (is_other and k in left_out)}


def _flattened(base: Mapping[str, Any], objective: str) -> dict[str, Any]:
    """Return the settings of a file in one level; UserError for one that its objective lacks."""
    values = nest({}, {"objective": objective, **base})
    settings, name = values.pop("settings"), values["objective"]
    check_names(settings, objective_fields(name), f"objective {name}")
    return {**values, **settings}


def _laid_over(start: Mapping[str, Any], flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return `start` overridden by flat settings; other epochs move what is counted in epochs."""
    values, epochs = nest(flat, start), flat.get("epochs")
    if not isinstance(epochs, int | float) or epochs < 1:
        return values
    before = start.get("epochs", TrainConfig.model_fields["epochs"].default)
    moved = TrainConfig.make({**values, "epochs": before}).at_epochs(int(epochs))
    return nest({key: value for key, value in moved.items() if key not in flat}, values)


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
