"""Search spaces: `key=SPEC` texts to Optuna distributions, and what a point of one says.

The objective may be searched too: `objective=choice(macer,consistency)`. A key such as `trade_off`
then varies in trials of all objectives that have it, and `macer.trade_off` in those of one alone.
"""

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

from rsray.config import READING, TrainConfig, check_names, nest, objective_fields
from rsray.errors import UserError
from rsray.family import choose
from rsray.objectives import OBJECTIVES
from rsray.storage.yaml_files import parse_value

Point = dict[str, Any]
Space = dict[str, BaseDistribution]
FORMS = "uniform(low,high), log(low,high), int(low,high), choice(a,b,...)"
# Of a grid; each is a training.
MOST_CELLS = 100_000
SPEC = re.compile(r"^\s*(uniform|log|int|choice)\s*\((.*)\)\s*$")
# Outside brackets: [10,20] is one value.
COMMA = re.compile(r",(?![^\[]*\])")
# What trials share, so that they can be compared: their images, and where they run.
SHARED = TrainConfig.where_fields | {
    "dataset", *READING, "limit", "validation", "seed", "sigma", "settings"
}  # fmt: skip


def parse_space(
    assignments: Iterable[str], objective: str, fixed: Iterable[str] = ()
) -> dict[str, str]:
    """Return {key: SPEC} of `key=SPEC` texts, or without any the objective's default space.

    Where nothing but the objective is to vary, each has its own default space. The keys in `fixed`
    have a value that the user gave: the default space leaves them out. Raises UserError for one
    that is searched too, a key that training does not know or that all trials share, and a SPEC
    that cannot be read.
    """
    specs = _split(assignments, "--search", f"key=SPEC, with SPEC one of {FORMS}")
    every = _check_keys(specs, objective, "--search", fixed)
    if not {*specs} - {"objective"}:
        # Of an objective, or of each that is searched.
        usual = {
            f"{name}.{key}" if "objective" in specs else key: spec
            for name in every
            for key, spec in OBJECTIVES[name].search_space.items()
        }
        specs |= {key: spec for key, spec in usual.items() if setting_of(key) not in set(fixed)}
        if not specs:
            raise UserError(
                f"nothing is left to search: {', '.join(usual)} is given; name "
                f"other settings by --search key=SPEC, with SPEC one of {FORMS}"
            )
    read_space(specs)
    return specs


def parse_grid(
    assignments: Iterable[str], objective: str, fixed: Iterable[str] = ()
) -> dict[str, str]:
    """Return {key: "choice(...)"} of `key=v1,v2,...` texts; UserError like parse_space."""
    values = _split(assignments, "--grid", "key=v1,v2,...")
    specs = {key: f"choice({text})" for key, text in values.items()}
    _check_keys(specs, objective, "--grid", fixed)
    for key, distribution in read_space(specs).items():
        choices = extreme_values(distribution)
        if any(value in choices[:place] for place, value in enumerate(choices)):
            raise UserError(f"--grid {key}: a value comes twice in {choices}")
    return specs


def _split(assignments: Iterable[str], option: str, form: str) -> dict[str, str]:
    """Return what each `key=...` text says of its key, named once; UserError for another form."""
    found: dict[str, str] = {}
    for text in assignments:
        key, _, value = map(str.strip, text.partition("="))
        if not value:
            raise UserError(f"{option} {text!r} is not of the form {form}")
        if key in found:
            raise UserError(f"{option} names {key} twice")
        found[key] = value
    return found


def _check_keys(
    specs: Mapping[str, str], objective: str, option: str, fixed: Iterable[str]
) -> list[str]:
    """Return the objectives of the trials; UserError for a key that none of them can vary."""
    every = objectives_of(specs) or [objective]
    known = [name for name in TrainConfig.model_fields if name not in SHARED]
    for key in specs:
        owner, setting = owner_of(key), setting_of(key)
        if setting in SHARED and setting != "settings":
            raise UserError(f"{option} {key}: all trials share it, or they could not be compared")
        if setting in set(fixed):
            raise UserError(f"{key} is both given and varied by {option}: leave one of them out")
        if owner and (owner not in every or setting in ("objective", "epochs")):
            raise UserError(
                f"{option} {key}: before the dot stands an objective that is searched "
                f"({', '.join(every)}), behind it a setting of its own"
            )
        if owner and setting in specs:
            raise UserError(f"{option} names {setting} twice: as {key} too")
        own = [name for each in ([owner] if owner else every) for name in objective_fields(each)]
        check_names([setting], [*known, *own], f"{option}, objective {' or '.join(every)}")
    return every


def objectives_of(specs: Mapping[str, str]) -> list[str]:
    """Return the objectives that are searched; UserError for one that cannot be."""
    if "objective" not in specs:
        return []
    found = _distribution("objective", specs["objective"])
    if not isinstance(found, CategoricalDistribution):
        raise UserError("--search objective: give choice(macer,consistency,...)")
    for name in map(str, found.choices):
        if choose(name, OBJECTIVES, "objective") and OBJECTIVES[name].makes_images:
            raise UserError(f"objective {name} trains no classifier: nothing to search for")
    return [str(name) for name in found.choices]


def setting_of(key: str) -> str:
    """Return the setting that a key of a space varies."""
    return key.rpartition(".")[2]


def owner_of(key: str) -> str:
    """Return the objective in whose trials alone a key varies; empty where it is any."""
    return key.rpartition(".")[0]


def active(space: Space, objective: str | None) -> Space:
    """Return the part of a space that trials of an objective vary."""
    if "objective" not in space or objective is None:
        return space
    has = {*TrainConfig.model_fields, *objective_fields(objective)}
    return {
        key: distribution
        for key, distribution in space.items()
        if owner_of(key) == objective or (not owner_of(key) and key in has)
    }


def read_space(specs: Mapping[str, str]) -> Space:
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
    except (TypeError, ValueError) as problem:
        reason = str(problem).splitlines()[0]
        raise UserError(f"--search {key}={spec!r}: {reason}; SPEC is one of {FORMS}") from problem


def extreme_values(distribution: BaseDistribution) -> list[Any]:
    """Return a distribution's choices, or its lowest and highest value."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return [distribution.low, distribution.high]


def settings_of(point: Point, train: TrainConfig, trial_epochs: int | None = None) -> Point:
    """Return a point's settings for its epochs, or for a trial's (see TrainConfig.at_epochs)."""
    settings = {
        setting_of(key): parse_value(value)
        if isinstance(value, str) and value.startswith("[")
        else value
        for key, value in point.items()
    }
    if "epochs" in settings:
        return {**train.at_epochs(settings["epochs"]), **settings}
    if trial_epochs is not None:
        full = TrainConfig.make(nest(settings, train.model_dump()))
        return {**settings, **full.at_epochs(trial_epochs)}
    return settings


def grid_points(space: Space) -> list[Point]:
    """Return every combination of the choices, the last key varying fastest.

    Raises UserError for more than anybody can try, and for a key that has no choices.
    """
    for key, distribution in space.items():
        if not isinstance(distribution, CategoricalDistribution):
            raise UserError(f"a grid tries choices: give {key}=choice(...), or another sampler")
    found: list[Point] = []
    for part in _by_objective(space):
        choices = [extreme_values(distribution) for distribution in part.values()]
        if len(found) + math.prod(map(len, choices)) > MOST_CELLS:
            raise UserError(f"--grid has more than {MOST_CELLS:,} cells")
        found += [dict(zip(part, values, strict=True)) for values in product(*choices)]
    return found


def _by_objective(space: Space) -> list[Space]:
    """Return the space of each objective that is searched, or the whole."""
    if "objective" not in space:
        return [space]
    return [
        {**active(space, name), "objective": CategoricalDistribution([name])}
        for name in extreme_values(space["objective"])
    ]


def point_of(space: Space, settings: Mapping[str, Any]) -> Point:
    """Return the settings' own point in the space, which may not hold it."""
    part = active(space, settings.get("objective"))
    return {key: _stored(settings.get(setting_of(key))) for key in part}


def holds_value(distribution: BaseDistribution, value: Any) -> bool:
    """Tell whether a search may try this value."""
    value = _stored(value)
    try:
        return value is not None and distribution._contains(distribution.to_internal_repr(value))
    # What a categorical distribution says of a stranger.
    except ValueError:
        return False


def _stored(value: Any) -> Any:
    """Return a value as studies hold it: they have no lists, only their text."""
    return str(list(value)) if isinstance(value, list | tuple) else value
