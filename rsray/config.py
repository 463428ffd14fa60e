"""Run configurations: typed, validated, resolved once, written beside every result.

A configuration has two kinds of fields. What a run computes (`dataset`, `sigma`, ...) must be the
same when a run continues; where it runs (`workers`, `actors`, `data_root`, ...) may change.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import Annotated, Any, ClassVar, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from rsray.core.bounds import BOUNDS, SOFT_BOUNDS, check_settings
from rsray.core.bounds.confidence_sequence import sequence_lower
from rsray.core.radius import certified_radius, round_down
from rsray.errors import UserError
from rsray.family import choose
from rsray.objectives import OBJECTIVES, Objective
from rsray.storage.yaml_files import parse_value

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
SAMPLING = ("fixed", "skip", "adaptive")
COMPILE = ("auto", "on", "off")
SAMPLERS = ("tpe", "random", "grid")
# What a search may ask for -> what a look at a trial calls it.
TUNE_OBJECTIVES = {"acr": "projected_acr", "clean_accuracy": "clean_accuracy"}


class Config(BaseModel):
    """What all configurations share: frozen, unknown keys refused, errors in one line."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    where_fields: ClassVar[frozenset[str]] = frozenset()
    open_fields: ClassVar[frozenset[str]] = frozenset()  # None: as an earlier start chose

    @classmethod
    def make(cls, values: Mapping[str, Any]) -> Self:
        """Return the validated configuration; UserError names the field, the value and the rule."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as problem:
            raise UserError(_first_problem(problem)) from problem

    def identity(self) -> dict[str, Any]:
        """Return the fields that decide the result."""
        return self.model_dump(mode="json", exclude=set(self.where_fields))

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """Return "field is X here, Y there" for each deciding field that differs."""
        mine = self.identity()
        return [
            f"{key} is {mine.get(key)!r} now but was {other.get(key)!r}"
            for key in mine
            if key in other
            and mine.get(key) != other.get(key)
            and not (key in self.open_fields and mine.get(key) is None)
        ]


class TrainConfig(Config):
    """One training run. `settings` holds the objective's own fields (trade_off, hinge, ...)."""

    where_fields: ClassVar[frozenset[str]] = frozenset(
        {"workers", "most_workers", "gpus_per_worker", "data_root", "preset"}
    )
    open_fields: ClassVar[frozenset[str]] = frozenset({"precision"})

    dataset: str
    data_root: str | None = None
    image_size: Positive | None = None
    model: str = "lenet"
    objective: str = "macer"
    sigma: Annotated[float, Field(gt=0)] = 0.25
    settings: dict[str, Any] = {}
    epochs: Positive = 10
    batch_size: Positive = 64
    lr: Annotated[float, Field(gt=0)] = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    lr_drops: tuple[
        Positive, ...
    ] = ()  # epochs (from 0) at whose start lr is multiplied by lr_decay
    lr_decay: Annotated[float, Field(gt=0, le=1)] = 0.1
    augmentation: str | None = None  # None: the data set's own
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.0  # fraction of training images held out
    limit: Positive | None = None  # train on this many images, drawn with the seed
    precision: str | None = None  # None: bf16 where the hardware computes it
    seed: NonNegative = 0
    workers: NonNegative = 1
    most_workers: Positive | None = None  # elastic: up to so many while the cluster has room
    gpus_per_worker: Annotated[float, Field(ge=0)] | None = None
    preset: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _range_of_workers(cls, values: Any) -> Any:
        """Take `workers: 1-4` as workers 1, most_workers 4."""
        given = values.get("workers") if isinstance(values, dict) else None
        if not isinstance(given, str):
            return values
        least, _, most = given.strip().partition("-")
        if not least.isdecimal() or (most and not most.isdecimal()) or given.strip()[-1] == "-":
            raise ValueError(f"workers is {given}: must be a number from 0, or a range such as 1-4")
        return {**values, "workers": int(least), "most_workers": int(most) if most else None}

    @model_validator(mode="after")
    def _most_workers_are_more(self) -> Self:
        if self.most_workers is not None and not 1 <= self.workers <= self.most_workers:
            raise ValueError(
                f"workers is {self.workers}-{self.most_workers}: must go from at least 1 upwards"
            )
        return self

    @model_validator(mode="after")
    def _objective_accepts_settings(self) -> Self:
        self.build_objective()
        return self

    def build_objective(self) -> Objective:
        """Return the objective with its settings; ValueError or UserError if it refuses them."""
        chosen = OBJECTIVES[self.objective]
        check_names(self.settings, objective_fields(self.objective), f"objective {self.objective}")
        for key, value in self.settings.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"objective {self.objective}: {key} is {value}: it must be finite")
        try:
            return TypeAdapter(chosen).validate_python({"sigma": self.sigma, **self.settings})
        except ValidationError as problem:
            raise UserError(f"objective {self.objective}: {_first_problem(problem)}") from problem

    def resolved(self) -> TrainConfig:
        """Return the configuration with every objective setting spelled out."""
        own = objective_fields(self.objective)
        full = {k: v for k, v in asdict(self.build_objective()).items() if k in own}
        return self.model_copy(update={"settings": full})

    def at_epochs(self, epochs: int) -> dict[str, Any]:
        """Return the flat settings that make this a run of so many epochs.

        What is counted in epochs (learning-rate drops, a warm-up) moves in proportion.
        """
        moved = {"epochs": epochs, "lr_drops": scaled_drops(self.lr_drops, self.epochs, epochs)}
        warm_up = self.resolved().settings.get("warm_up_epochs")
        if warm_up:
            moved["warm_up_epochs"] = max(1, round(warm_up * epochs / self.epochs))
        return moved


class CertifyConfig(Config):
    """One certification run: which images, how many draws, which bound."""

    where_fields: ClassVar[frozenset[str]] = frozenset(
        {"actors", "most_actors", "gpus_per_actor", "data_root", "source", "compile"}
    )
    open_fields: ClassVar[frozenset[str]] = frozenset({"precision"})

    source: str  # RUN folder or checkpoint file
    model_digest: str
    dataset: str
    data_root: str | None = None
    image_size: Positive | None = None
    split: str = "test"
    model: str
    num_classes: Annotated[int, Field(ge=2)]
    sigma: Annotated[float, Field(gt=0)]
    n0: Positive = 100
    n: Positive = 100_000
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.001
    bound: str = "clopper-pearson"
    sampling: str = "fixed"
    tolerance: Annotated[float, Field(gt=0)] = 0.01  # of adaptive: lost radius over sigma
    at_radius: tuple[Annotated[float, Field(ge=0)], ...] = ()  # stop once these are answered
    block_size: Positive = 1_000
    start: NonNegative = 0
    skip: Positive = 1
    limit: Positive | None = None
    seed: NonNegative = 0
    precision: str | None = "fp32"  # None: bf16 where the actors' hardware computes it
    compile: str = "auto"  # the evaluation that is recorded says what became of it
    actors: Positive | None = None  # None: one per GPU, or one per CPU core
    most_actors: Positive | None = None  # elastic: up to so many as the cluster grows
    gpus_per_actor: Annotated[float, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _can_certify(self) -> Self:
        choose(self.bound, BOUNDS, "bound")
        choose(self.sampling, SAMPLING, "sampling")
        choose(self.compile, COMPILE, "compile")
        check_settings(self.n, self.alpha, self.n0, self.bound)
        if self.at_radius:
            self._can_answer()
        return self

    def _can_answer(self) -> None:
        """Raise UserError for radii that no confidence sequence of n draws can answer."""
        if self.bound != "clopper-pearson" or self.sampling == "adaptive":
            raise UserError(
                "at-radius has a bound and a stopping rule of its own: leave bound at "
                f"clopper-pearson (it is {self.bound}) and choose sampling fixed or skip "
                f"(it is {self.sampling})"
            )
        top = float(certified_radius(sequence_lower(self.n, self.n, self.alpha), self.sigma))
        if max(self.at_radius) > top:
            raise UserError(
                f"at-radius {max(self.at_radius):g} cannot be reached: with sigma {self.sigma:g}, "
                f"n {self.n} and alpha {self.alpha:g} the largest radius is {round_down(top, 4)}"
            )

    @property
    def soft(self) -> bool:
        """Whether the certified classifier is the soft smoothed one."""
        return self.bound in SOFT_BOUNDS


class TuneConfig(Config):
    """A search: `train` is the setting to start from, `search` the SPEC of each key that varies."""

    where_fields: ClassVar[frozenset[str]] = frozenset(
        {"concurrent", "data_root", "workers", "final", "compare"}
    )

    train: TrainConfig
    search: dict[str, str]
    sampler: str = "tpe"
    objectives: tuple[str, ...] = ("acr",)  # the first decides who wins
    trials: Positive = 20
    concurrent: Positive | None = None  # None: as there is room for, TPE a quarter of all
    workers: Positive | None = None  # of a trial and of the final training; None: train's own
    trial_epochs: Positive | None = None  # of a full trial; None: as many as the winner's
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.15  # of the training images
    num_draws: Positive = 256  # per validation image, for the projected ACR
    report_every: Positive = 2  # epochs between looks at the projected ACR
    reduction: Annotated[int, Field(ge=2)] = 3  # ASHA keeps the best 1/reduction at each rung
    final: bool = True  # train the winner on all training images, and certify it
    compare: bool = True  # and beside it the paper's setting
    n: Positive = 100_000  # estimation draws per test image of the winner's certificates
    skip: Positive = 1
    limit: Positive | None = None
    seed: NonNegative = 0

    @model_validator(mode="after")
    def _can_search(self) -> Self:
        check_settings(self.n, 0.001)
        choose(self.sampler, SAMPLERS, "sampler")
        for name in self.objectives:
            choose(name, TUNE_OBJECTIVES, "objectives:")
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise UserError(f"objectives is {list(self.objectives)}: name each once, at least one")
        if self.trial_epochs is not None and "epochs" in self.search:
            raise UserError(f"trial_epochs is {self.trial_epochs}, but the search varies epochs")
        if (self.trial_epochs or 1) > self.train.epochs:
            raise UserError(
                f"trial_epochs is {self.trial_epochs}: at most the winner's epochs, "
                f"{self.train.epochs}"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """Return the fields that decide the result; where the data is does not."""
        return {**super().identity(), "train": self.train.identity()}

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """Return "field is X here, Y there" for each deciding field that differs."""
        rest = {key: value for key, value in other.items() if key != "train"}
        return [*super().differences(rest), *self.train.differences(other.get("train", {}))]


def check_names(given: Iterable[str], allowed: Iterable[str], what: str) -> None:
    """Raise UserError for the first name that is not allowed."""
    names = list(allowed)
    for key in given:
        if key not in names:
            choose(key, names, f"{what}: setting")


def objective_fields(objective: str) -> list[str]:
    """Return the names of an objective's own settings."""
    return [field.name for field in fields(OBJECTIVES[objective]) if field.name != "sigma"]


def parse_assignments(pairs: Iterable[str]) -> dict[str, Any]:
    """Return {key: value} of `key=value` texts; values are read as YAML scalars or lists."""
    parsed: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key.strip():
            raise UserError(f"--set {pair!r} is not of the form key=value")
        try:
            parsed[key.strip()] = parse_value(value)
        except yaml.YAMLError as problem:
            raise UserError(f"--set {pair!r}: the value is not valid YAML") from problem
    return parsed


def nest(flat: Mapping[str, Any], base: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return `base` overridden by flat keys: training fields at the top, the rest as settings.

    Settings of the base are kept only while the objective stays the same. Raises UserError for a
    key that neither training nor the objective knows.
    """
    values = dict(base or {})
    settings = dict(values.get("settings", {}))
    objective = flat.get(
        "objective", values.get("objective", TrainConfig.model_fields["objective"].default)
    )
    if objective != values.get("objective", objective):
        settings = {}
    own = objective_fields(objective)
    training = [name for name in TrainConfig.model_fields if name != "settings"]
    for key, value in flat.items():
        if key in training:
            values[key] = value
        elif key in own:
            settings[key] = value
        else:
            choose(key, [*training, *own], f"setting for objective {objective}:")
    return {**values, "objective": objective, "settings": settings}


def scaled_drops(drops: Iterable[int], old_epochs: int, new_epochs: int) -> tuple[int, ...]:
    """Return learning-rate drops moved in proportion when a schedule is shortened or stretched."""
    moved = {round(drop * new_epochs / old_epochs) for drop in drops}
    return tuple(sorted(drop for drop in moved if 0 < drop < new_epochs))


def _first_problem(problem: ValidationError) -> str:
    first = problem.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, Exception):
        return str(cause)
    where = ".".join(str(part) for part in first["loc"]) or "configuration"
    if first["type"] == "extra_forbidden":
        return f"{where} is not a known setting"
    if first["type"] == "missing":
        return f"{where} is missing"
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"{where} is {first['input']!r}: {message.replace('input ', '')}"
