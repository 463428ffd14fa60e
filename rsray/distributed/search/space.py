"""Search spaces: `key=SPEC` texts to Optuna distributions, and the points that are tried first."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from yaml import YAMLError

from rsray.config import READING, TrainConfig, TuneConfig, check_names, nest, objective_fields
from rsray.errors import UserError
from rsray.objectives import OBJECTIVES
from rsray.presets import published_for
from rsray.storage.yaml_files import parse_value

Point = dict[str, Any]
Space = dict[str, BaseDistribution]
FORMS = "uniform(low,high), log(low,high), int(low,high), choice(a,b,...)"
SPEC = re.compile(r"^\s*(uniform|log|int|choice)\s*\((.*)\)\s*$")
COMMA = re.compile(r",(?![^\[]*\])")  # outside brackets: [10,20] is one value
# What trials share, so that they can be compared: their images, and where they run.
SHARED = TrainConfig.where_fields | {
    "dataset", *READING, "limit", "validation", "seed", "sigma", "settings"
}  # fmt: skip
# What a user chooses for the published setting too: not of a paper's method.
BUDGET = ("epochs", "batch_size", "model")
GIVEN = ("paper", "start")  # sources of trials that nobody proposed


def parse_space(
    assignments: Iterable[str], objective: str, fixed: Iterable[str] = ()
) -> dict[str, str]:
    """Return {key: SPEC} of `key=SPEC` texts, or without any the objective's default space.

    The keys in `fixed` have a value that the user gave: the default space leaves them out. Raises
    UserError for one that is searched too, a key that training does not know or that all trials
    share, and a SPEC that cannot be read.
    """
    specs: dict[str, str] = {}
    for text in assignments:
        key, separator, spec = text.partition("=")
        if not separator:
            raise UserError(
                f"--search {text!r} is not of the form key=SPEC, with SPEC one of {FORMS}"
            )
        _add(specs, key.strip(), spec.strip(), "--search")
    _check_keys(specs, objective, "--search", fixed)
    if not specs:
        usual = OBJECTIVES[objective].search_space
        specs = {key: spec for key, spec in usual.items() if key not in set(fixed)}
        if not specs:
            raise UserError(
                f"nothing is left to search: {', '.join(usual)} is given; name "
                f"other settings by --search key=SPEC, with SPEC one of {FORMS}"
            )
    distributions(specs)
    return specs


def parse_grid(
    assignments: Iterable[str], objective: str, fixed: Iterable[str] = ()
) -> dict[str, str]:
    """Return {key: "choice(...)"} of `key=v1,v2,...` texts; UserError like parse_space."""
    specs: dict[str, str] = {}
    for text in assignments:
        key, separator, values = text.partition("=")
        if not separator or not values.strip():
            raise UserError(f"--grid {text!r} is not of the form key=v1,v2,...")
        _add(specs, key.strip(), f"choice({values.strip()})", "--grid")
    _check_keys(specs, objective, "--grid", fixed)
    for key, distribution in distributions(specs).items():
        choices = ends(distribution)
        if any(value in choices[:place] for place, value in enumerate(choices)):
            raise UserError(f"--grid {key}: a value comes twice in {choices}")
    return specs


def _add(specs: dict[str, str], key: str, spec: str, option: str) -> None:
    if key in specs:
        raise UserError(f"{option} names {key} twice")
    specs[key] = spec


def _check_keys(
    specs: Mapping[str, str], objective: str, option: str, fixed: Iterable[str]
) -> None:
    known = [name for name in TrainConfig.model_fields if name not in SHARED]
    for key in specs:
        if key in SHARED and key != "settings":
            raise UserError(f"{option} {key}: all trials share it, or they could not be compared")
        if key in set(fixed):
            raise UserError(f"{key} is both given and varied by {option}: leave one of them out")
    check_names(specs, [*known, *objective_fields(objective)], f"{option}, objective {objective}")


def distributions(specs: Mapping[str, str]) -> Space:
    """Return the Optuna distribution of each SPEC; UserError that shows the forms."""
    return {key: _distribution(key, spec) for key, spec in specs.items()}


def _distribution(key: str, spec: str) -> BaseDistribution:
    found = SPEC.match(spec)
    if found is None:
        raise UserError(f"--search {key}={spec!r} cannot be read: SPEC is one of {FORMS}")
    kind, inside = found.groups()
    try:
        values = [parse_value(part) for part in COMMA.split(inside)]
        if any(value is None or value != value for value in values):
            raise ValueError("a value is missing or not a number")
        if kind == "choice":
            return CategoricalDistribution([_stored(value) for value in values])
        low, high = (float(value) for value in values)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("the bounds must be finite")
        if kind == "int":
            if low % 1 or high % 1:
                raise ValueError("the bounds of int must be whole numbers")
            return IntDistribution(int(low), int(high))
        return FloatDistribution(low, high, log=kind == "log")
    except (TypeError, ValueError, YAMLError) as problem:
        reason = str(problem).splitlines()[0]
        raise UserError(f"--search {key}={spec!r}: {reason}; SPEC is one of {FORMS}") from problem


def ends(distribution: BaseDistribution) -> list[Any]:
    """Return a distribution's choices, or its lowest and highest value."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return [distribution.low, distribution.high]


def most_epochs(config: TuneConfig) -> int:
    """Return the epochs of the longest trial that a search may run."""
    space = distributions(config.search)
    if "epochs" not in space:
        return config.trial_epochs or config.train.epochs
    return max(int(value) for value in ends(space["epochs"]))


def settings_of(point: Point, train: TrainConfig, trial_epochs: int | None = None) -> Point:
    """Return a point's settings for its epochs, or for a trial's (see TrainConfig.at_epochs)."""
    settings = {
        key: parse_value(value) if isinstance(value, str) and value.startswith("[") else value
        for key, value in point.items()
    }
    if "epochs" in settings:
        return {**train.at_epochs(settings["epochs"]), **settings}
    if trial_epochs is not None:
        full = TrainConfig.make(nest(settings, train.model_dump()))
        return {**settings, **full.at_epochs(trial_epochs)}
    return settings


def grid_points(space: Space) -> list[Point]:
    """Return every combination of the choices, the last key varying fastest."""
    choices = [getattr(distribution, "choices", ()) for distribution in space.values()]
    return [dict(zip(space, values, strict=True)) for values in product(*choices)]


def start_points(space: Space, train: TrainConfig) -> dict[str, Point]:
    """Return {"paper": point, "start": point}: the published setting and the one to start from.

    One entry when the two are the same. No "paper" where none is published, or `why_untried`.
    """
    own, paper = _flat(train), published_settings(train)
    points: dict[str, Point] = {}
    if paper and not why_untried(space, train):
        points["paper"] = _point(space, {**own, **paper})
    start = first_point(space, own)
    if start and start not in points.values():
        points["start"] = start
    return points


def published_settings(train: TrainConfig) -> Point:
    """Return what a paper says of this run but the budget, its schedule at this run's epochs.

    Empty where nothing is published for the data set, objective and sigma.
    """
    entry = published_for(train)
    settings = entry.at_epochs(train.epochs) if entry else {}
    return {key: value for key, value in settings.items() if key not in BUDGET}


def why_untried(space: Space, train: TrainConfig) -> str:
    """Return what keeps the published setting from being a trial; empty when nothing does."""
    own, paper = _flat(train), published_settings(train)
    for key, value in {**own, **paper}.items():
        if key in space and not _holds(space[key], _stored(value)):
            return f"its {key} is {value}, which the search does not hold"
        if key in paper and key not in space and own.get(key) != value:
            return f"its {key} is {value}, here it is {own.get(key)}"
    return ""


def first_point(space: Space, settings: Mapping[str, Any]) -> Point | None:
    """Return the settings' own point in the space, or None when the space does not hold it."""
    point = _point(space, settings)
    return point if all(_holds(space[key], value) for key, value in point.items()) else None


def _flat(train: TrainConfig) -> Point:
    resolved = train.resolved()
    return {**resolved.model_dump(), **resolved.settings}


def _point(space: Space, settings: Mapping[str, Any]) -> Point:
    return {key: _stored(settings.get(key)) for key in space}


def _stored(value: Any) -> Any:
    """Return a value as studies hold it: they have no lists, only their text."""
    return str(list(value)) if isinstance(value, list | tuple) else value


def _holds(distribution: BaseDistribution, value: Any) -> bool:
    try:
        return value is not None and distribution._contains(distribution.to_internal_repr(value))
    except ValueError:  # what a categorical distribution says of a stranger
        return False
