"""The papers' settings: every preset in the YAML files beside this one, by name."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

import yaml

from rsray.config import TrainConfig, nest
from rsray.data import DATASETS
from rsray.errors import UserError
from rsray.objectives import OBJECTIVES

# A preset has its parent's unless it names its own.
INHERITED = ("cost", "certify", "differs")
# What a setting is unless its file says otherwise, whatever rsray's defaults are.
USUAL = {"optimizer": "sgd", "lr_schedule": "drops", "lr_warm_up": 0, "label_smoothing": 0.0}


@dataclass(frozen=True)
class Preset:
    """Settings to reproduce, what they cost, and the figure that was published for them."""

    name: str
    # flat: training fields and the objective's own
    settings: dict[str, Any]
    cost: str
    # Title of the file it came from
    paper: str
    # published, with the digits of its table
    acr: str | None = None
    # Radius -> published accuracy
    certified: dict[float, float] = field(default_factory=dict)
    # The table the figure stands in
    source: str | None = None
    # Options of `rsray certify` that select the images of the figure
    certify: str = ""
    # Where these settings are not, or not known to be, the paper's
    differs: str = ""
    # False: a setting of our own, which no paper or public recipe has
    is_published: bool = True

    def at_epochs(self, epochs: int) -> dict[str, Any]:
        """Return the settings for a run of so many epochs: see TrainConfig.at_epochs."""
        whole = TrainConfig.make(nest(self.settings))
        return {**self.settings, **whole.at_epochs(epochs)}

    @property
    def figure(self) -> str:
        """What was published: the ACR, else the accuracy at a radius of 2 sigma; may be empty."""
        if self.acr is not None:
            return self.acr
        if self.certified:
            sigma = self.settings["sigma"]
            radius = min(self.certified, key=lambda radius: abs(radius - 2 * sigma))
            return f"{self.certified[radius]:.0%} at {radius:g}"
        return ""


@cache
def presets() -> dict[str, Preset]:
    """Return every preset by name: our own first, then the papers' in the order of OBJECTIVES."""
    listed = resources.files(__package__).iterdir()
    texts = [file.read_text(encoding="utf-8") for file in listed if file.name.endswith(".yaml")]
    files = [_read(yaml.safe_load(text)) for text in texts]
    return {entry.name: entry for entries in sorted(files, key=_place) for entry in entries}


def _place(entries: list[Preset]) -> tuple[bool, int, str]:
    """Return what the files are sorted by."""
    first = entries[0]
    objectives = list(OBJECTIVES)
    return first.is_published, objectives.index(first.settings["objective"]), first.name


def preset(name: str) -> Preset:
    """Return the preset of that name; UserError guesses what was meant."""
    found = presets().get(name)
    if found is None:
        close = difflib.get_close_matches(name, presets(), n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise UserError(f"preset {name!r} is unknown{hint}; rsray presets lists them")
    return found


def published_for(train: TrainConfig) -> Preset | None:
    """Return the published setting for a run's data set, objective and sigma, if there is one.

    The run's own preset where it still fits, else the first: each paper's main table.
    """
    wanted = {"dataset": train.dataset, "objective": train.objective, "sigma": train.sigma}
    fitting = [
        entry
        for entry in presets().values()
        if entry.is_published and wanted.items() <= entry.settings.items()
    ]
    own = [entry for entry in fitting if entry.name == train.preset]
    return next(iter(own + fitting), None)


def matching(part: str) -> list[Preset]:
    """Return the presets of the data set `part`, or whose name holds it as whole words.

    `mnist`, `macer-cifar10` and `0.25` each match several presets. UserError when none matches.
    """
    if part in DATASETS:
        return [entry for entry in presets().values() if entry.settings["dataset"] == part]
    chosen = [entry for name, entry in presets().items() if f"-{part}-" in f"-{name}-"]
    return chosen or [preset(part)]


def _read(entries: dict[str, Any]) -> list[Preset]:
    """Return the presets of a file, which names its paper; `ours` says that there is none."""
    paper, is_published = entries.pop("paper"), not entries.pop("ours", False)
    found: dict[str, Preset] = {}
    for name, entry in entries.items():
        parent = found[entry["extends"]] if "extends" in entry else None
        inherited = {key: getattr(parent, key) for key in INHERITED} if parent else {}
        own = {key: entry[key] for key in INHERITED if key in entry}
        published = entry.get("published", {})
        found[name] = Preset(
            name=name,
            settings={**(parent.settings if parent else USUAL), **entry["settings"]},
            paper=paper,
            is_published=is_published,
            acr=published.get("acr"),
            certified=published.get("certified", {}),
            source=published.get("source"),
            **{**inherited, **own},
        )
    return list(found.values())
