"""Search spaces: `key=SPEC` texts to Optuna distributions, and the points that are tried first."""

from __future__ import annotations

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

from rsray.config import TrainConfig, check_names, objective_fields, parse_value
from rsray.errors import UserError
from rsray.presets import presets

Point = dict[str, Any]
Space = dict[str, BaseDistribution]
FORMS = "uniform(low,high), log(low,high), int(low,high), choice(a,b,...)"
SPEC = re.compile(r"^\s*(uniform|log|int|choice)\s*\((.*)\)\s*$")

# Ranges around the papers' settings, wide enough to hold the best of their ablations.
DEFAULT_SPECS: dict[str, dict[str, str]] = {
    "macer": {
        "trade_off": "log(0.5,32)",
        "hinge": "uniform(2,16)",
        "inverse_temperature": "log(2,64)",
    },
    "gaussian": {"lr": "log(0.003,0.2)", "weight_decay": "log(1e-5,1e-2)"},
    "smoothadv": {"epsilon": "log(0.1,4)"},
    "stability": {"trade_off": "log(0.5,20)"},
    "consistency": {"trade_off": "log(1,40)", "entropy_weight": "log(0.05,2)"},
    "smoothmix": {"trade_off": "log(0.5,20)"},
    "adre": {"trade_off": "log(0.02,0.5)"},
    "adre-adv": {"trade_off": "log(0.02,0.5)"},
    "sodm": {"trade_off": "log(1,100)"},
}


def parse_space(assignments: Iterable[str], objective: str) -> dict[str, str]:
    """Return {key: SPEC} of `key=SPEC` texts, or the objective's default space without any.

    Raises UserError for a key that training does not know or a SPEC that cannot be read.
    """
    specs: dict[str, str] = {}
    for text in assignments:
        key, separator, spec = text.partition("=")
        if not separator:
            raise UserError(
                f"--search {text!r} is not of the form key=SPEC, with SPEC one of {FORMS}"
            )
        specs[key.strip()] = spec.strip()
    specs = specs or dict(DEFAULT_SPECS[objective])
    _check_keys(specs, objective, "--search")
    distributions(specs)
    return specs


def parse_grid(assignments: Iterable[str], objective: str) -> dict[str, str]:
    """Return {key: "choice(...)"} of `key=v1,v2,...` texts; UserError like parse_space."""
    specs: dict[str, str] = {}
    for text in assignments:
        key, separator, values = text.partition("=")
        if not separator or not values.strip():
            raise UserError(f"--grid {text!r} is not of the form key=v1,v2,...")
        specs[key.strip()] = f"choice({values.strip()})"
    _check_keys(specs, objective, "--grid")
    for key, distribution in distributions(specs).items():
        choices = getattr(distribution, "choices", ())
        if len(set(choices)) < len(choices):
            raise UserError(f"--grid {key}: a value comes twice in {list(choices)}")
    return specs


def _check_keys(specs: Mapping[str, str], objective: str, option: str) -> None:
    known = [name for name in TrainConfig.model_fields if name != "settings"]
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
        values = [parse_value(part) for part in inside.split(",")]
        if any(value is None or value != value for value in values):
            raise ValueError("a value is missing or not a number")
        if kind == "choice":
            return CategoricalDistribution(values)
        low, high = (float(value) for value in values)
        if kind == "int":
            return IntDistribution(int(low), int(high))
        return FloatDistribution(low, high, log=kind == "log")
    except (TypeError, ValueError, YAMLError) as problem:
        reason = str(problem).splitlines()[0]
        raise UserError(f"--search {key}={spec!r}: {reason}; SPEC is one of {FORMS}") from problem


def grid_points(space: Space) -> list[Point]:
    """Return every combination of the choices, the last key varying fastest."""
    choices = [getattr(distribution, "choices", ()) for distribution in space.values()]
    return [dict(zip(space, values, strict=True)) for values in product(*choices)]


def start_points(space: Space, train: TrainConfig) -> dict[str, Point]:
    """Return {"paper": point, "start": point}: the published setting and the one to start from.

    Published is what the run's preset says, else the presets for this data set, objective and
    sigma. One entry when the two are the same; none that the space does not hold.
    """
    own = {**train.model_dump(), **train.settings}
    points: dict[str, Point] = {}
    for name, settings in (("paper", {**own, **_published(train)}), ("start", own)):
        point = first_point(space, settings)
        if point and point not in points.values():
            points[name] = point
    return points


def _published(train: TrainConfig) -> Point:
    """Return a preset's settings for the objective; nothing when no preset is about this run."""
    known = presets()
    if train.preset is not None:
        return dict(known[train.preset].settings) if train.preset in known else {}
    own = {"dataset": train.dataset, "objective": train.objective, "sigma": train.sigma}
    fitting = (entry.settings for entry in known.values() if own.items() <= entry.settings.items())
    return {key: value for key, value in next(fitting, {}).items() if key not in _BUDGET}


_BUDGET = ("epochs", "lr_drops", "batch_size", "model")  # of a run, not of the paper's method


def first_point(space: Space, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the settings' own point in the space, or None when the space does not hold it."""
    point = {key: settings.get(key) for key in space}
    is_inside = all(_holds(space[key], value) for key, value in point.items())
    return point if is_inside else None


def _holds(distribution: BaseDistribution, value: Any) -> bool:
    try:
        return value is not None and distribution._contains(distribution.to_internal_repr(value))
    except ValueError:  # what a categorical distribution says of a stranger
        return False
