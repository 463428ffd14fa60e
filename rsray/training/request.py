"""What `rsray train` is asked for: a training run that could begin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rsray import data
from rsray.config import TrainConfig
from rsray.data import ImageSplit
from rsray.errors import UserError
from rsray.models.factory import refuse_factory_of_a_file
from rsray.presets import train_config
from rsray.storage import PathLike, Place, read_file
from rsray.storage.yaml_files import from_yaml

# What files hold beside the settings.
RECORDED = {
    "classes", "image_shape", "normalisation", "data_fingerprint", "versions", "device",
    "evaluation",
}  # fmt: skip


class TrainingRequest(NamedTuple):
    """A training run that could begin."""

    config: TrainConfig
    split: ImageSplit

    @property
    def num_images(self) -> int:
        """How many images it trains on."""
        return min(len(self.split), self.config.limit or len(self.split))

    def announcement(self, where: str) -> str:
        """Return in a line what will be trained."""
        config = self.config
        return (
            f"{config.objective} on {config.dataset}: {config.model}, sigma {config.sigma:g}, "
            f"{config.epochs} epochs, {self.num_images:,} images -> {where}"
        )


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
        TrainConfig.make(base)
    elif preset is None and "dataset" not in given:
        raise UserError("give --dataset, --preset or --config")
    config = train_config(given, preset_name=preset, base=base)
    split = data.open_split(
        config.dataset, "train", config.data_root, download=download, **config.reading
    )
    return TrainingRequest(config, split)


def read_settings(file: PathLike) -> dict[str, Any]:
    """Return the settings in a YAML file, what a result records beside them left out."""
    place = Place.of(file)
    if not place.is_file():
        raise UserError(f"--config {place} is no file")
    values = from_yaml(read_file(place), str(place))
    return {key: value for key, value in values.items() if key not in RECORDED}
