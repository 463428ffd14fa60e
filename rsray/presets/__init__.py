"""The papers' settings as data, one YAML file per paper, and each data set's training defaults."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from rsray.config import TrainConfig, choose, nest, scaled_drops

# What a data set starts from when no preset is named; the objective's own defaults do the rest.
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


@dataclass(frozen=True)
class Preset:
    """Settings to reproduce, what they cost, and the figure that was published for them."""

    name: str
    settings: dict[str, Any]  # flat: training fields and the objective's own
    cost: str
    published_acr: float | None
    source: str | None
    paper: str  # file it came from


@cache
def presets() -> dict[str, Preset]:
    """Return every preset by name, in the order of the files."""
    found: dict[str, Preset] = {}
    for file in sorted(resources.files(__name__).iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".yaml"):
            found |= _read(
                yaml.safe_load(file.read_text(encoding="utf-8")), file.name.removesuffix(".yaml")
            )
    return found


def preset(name: str) -> Preset:
    """Return the preset of that name; UserError lists the names."""
    return presets()[choose(name, presets(), "preset")]


def train_config(
    flat: dict[str, Any], *, preset_name: str | None = None, base: dict[str, Any] | None = None
) -> TrainConfig:
    """Return the configuration of a training run: defaults, then preset or `base`, then `flat`.

    When `epochs` is changed and `lr_drops` is not, the drops move in proportion.
    """
    start = dict(base or {})
    if preset_name is not None:
        start = nest(preset(preset_name).settings)
        start["preset"] = preset_name
    elif not start:
        start = _defaults(flat)
    values = nest(flat, start)
    epochs = flat.get("epochs")
    drops = start.get("lr_drops")
    if isinstance(epochs, int | float) and epochs >= 1 and "lr_drops" not in flat and drops:
        before = start.get("epochs", TrainConfig.model_fields["epochs"].default)
        values["lr_drops"] = scaled_drops(drops, before, int(epochs))
    return TrainConfig.make(values).resolved()


def _defaults(flat: dict[str, Any]) -> dict[str, Any]:
    from rsray.config import objective_fields

    objective = flat.get("objective", "macer")
    known = {*TrainConfig.model_fields, *objective_fields(objective)}
    chosen = DEFAULTS.get(str(flat.get("dataset")), {})
    usable = {key: value for key, value in chosen.items() if key in known}
    return nest({**usable, "objective": objective})


def _read(entries: dict[str, Any], paper: str) -> dict[str, Preset]:
    found: dict[str, Preset] = {}
    for name, entry in entries.items():
        parent = found[entry["extends"]] if "extends" in entry else None
        published = entry.get("published", {})
        found[name] = Preset(
            name=name,
            settings={**(parent.settings if parent else {}), **entry["settings"]},
            cost=entry.get("cost", parent.cost if parent else "unknown"),
            published_acr=published.get("acr"),
            source=published.get("source"),
            paper=paper,
        )
    return found
