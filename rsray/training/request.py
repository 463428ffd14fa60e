"""What `rsray train` is asked for: a training run that could begin."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from rsray import data
from rsray.config import TrainConfig
from rsray.data import DATASETS, ImageSplit
from rsray.errors import UserError
from rsray.models.factory import refuse_factory_of_a_file
from rsray.presets import WARM_START, fit_to_data, says_all, train_config
from rsray.storage import PathLike, Place, read_file
from rsray.storage.yaml_files import from_yaml

# What files hold beside the settings.
RECORDED = {
    "classes", "image_shape", "normalisation", "data_fingerprint", "versions", "device",
    "evaluation", "earlier_results", "compiled", "why_not_compiled",
}  # fmt: skip

# Of an objective's settings, those that the data decide.
FITTED_SETTINGS = ("num_draws", "trade_off", "deferred")


class TrainingRequest(NamedTuple):
    """A training run that could begin."""

    config: TrainConfig
    split: ImageSplit
    # Whether the data decided what the user left open (presets/own_pictures.py).
    is_fitted: bool = False

    @property
    def num_images(self) -> int:
        """How many images it trains on."""
        return min(len(self.split), self.config.limit or len(self.split))

    @property
    def num_trained(self) -> int:
        """The same without those that are held out."""
        return self.num_images - round(self.num_images * self.config.validation)

    @property
    def num_draws(self) -> int:
        """The noisy copies of an image in a step."""
        return self.config.build_objective().num_draws

    @property
    def steps_per_epoch(self) -> int:
        """The batches that the images make."""
        return math.ceil(self.num_trained / self.config.batch_size)

    @property
    def noisy_images(self) -> int:
        """The noisy images of the whole run."""
        return self.num_trained * self.num_draws * self.config.epochs

    def announcement(self, where: str) -> list[str]:
        """Return in lines what will be trained, and with which settings that nobody gave."""
        config = self.config
        what = (
            f"{config.objective} on {config.dataset}: {config.model}, sigma {config.sigma:g}, "
            f"{config.epochs} epochs, {self.num_images:,} images -> {where}"
        )
        fitted = [fitted_line(config, self.split)] if self.is_fitted else []
        return [what, *start_lines(config), *fitted]


def open_training(
    flat: Mapping[str, Any], *, config_file: PathLike | None = None, download: bool = False
) -> TrainingRequest:
    """Return the run that flat settings describe; UserError when something is missing or wrong.

    They override those of a preset (the key `preset`) or of a file.
    """
    given = dict(flat)
    preset = given.pop("preset", None)
    if config_file is not None and preset is not None:
        raise UserError("give --config or --preset, not both")
    base = read_settings(config_file) if config_file is not None else None
    if base is not None:
        refuse_factory_of_a_file(base.get("model"), str(config_file), given.get("model"))
        train_config({}, base=base) if base.get("preset") else TrainConfig.make(base)
    elif preset is None and "dataset" not in given:
        raise UserError("give --dataset, --preset or --config")
    config = train_config(given, preset_name=preset, base=base)
    split = data.open_split(
        config.dataset, "train", config.data_root, download=download, **config.reading
    )
    is_fitted = is_fit_to_data(config, given, base)
    if is_fitted:
        config = fit_to_data(config, given, split, base)
    return TrainingRequest(config, split, is_fitted)


def is_fit_to_data(
    config: TrainConfig, given: Mapping[str, Any], base: Mapping[str, Any] | None = None
) -> bool:
    """Tell whether settings come from the data: the user's own, where no preset or file has all."""
    has_settings = config.preset is not None or says_all(base or {}, given)
    return DATASETS[config.dataset].is_own and not has_settings


def start_lines(config: TrainConfig) -> list[str]:
    """Return in a line whose weights a run starts from, and what it therefore does not wait for."""
    settings = [f"{name} {config.settings[name]}" for name in WARM_START if name in config.settings]
    return [", ".join([f"from the weights of {config.init}", *settings])] if config.init else []


def fitted_line(config: TrainConfig, split: ImageSplit) -> str:
    """Return in a line the settings that a run has of its data, where the user gave no others."""
    settings = {
        "model": config.model,
        **{name: getattr(config, name) for name in ("epochs", "batch_size", "lr")},
        "lr_drops": ",".join(map(str, config.lr_drops)),
        **{name: config.settings[name] for name in FITTED_SETTINGS if name in config.settings},
    }
    channels, height, width = split.image_shape
    return (
        f"no paper has settings for these pictures of {channels}x{height}x{width} in "
        f"{split.num_classes} classes; for their number and size: "
        + ", ".join(f"{name} {value}" for name, value in settings.items())
    )


def read_settings(
    file: PathLike, *, left_out: Collection[str] = frozenset(RECORDED)
) -> dict[str, Any]:
    """Return the settings in a YAML file, what a result records beside them left out.

    Raises UserError for a file that is none, or holds no settings.
    """
    place = Place.of(file)
    if not place.is_file():
        raise UserError(f"--config {place} is no file")
    values = from_yaml(read_file(place), str(place))
    return {key: value for key, value in values.items() if key not in left_out}
