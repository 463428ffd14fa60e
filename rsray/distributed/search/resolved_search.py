"""A search, resolved once: what its configuration and the papers say of its trials and its winner.

Study, trials, winner and page are given a `Search` and ask nothing again. trial_resources.py adds
what only a cluster can say.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution

from rsray.config import TUNE_OBJECTIVES, TrainConfig, TuneConfig, nest
from rsray.data import ImageSplit
from rsray.distributed.search.space import (
    Point,
    Space,
    active,
    extreme_values,
    grid_points,
    holds_value,
    point_of,
    read_space,
    setting_of,
    settings_of,
)
from rsray.errors import UserError
from rsray.family import choose
from rsray.objectives import OBJECTIVES
from rsray.presets import published_for
from rsray.storage import Place
from rsray.storage.ownership import read_own_record
from rsray.training.batches.augment import AUGMENTATIONS
from rsray.training.optimisation import what_never_acts
from rsray.training.run_folder.run import (
    check_fit,
    images_of,
    refuse_other_data,
    refuse_other_results,
)
from rsray.training.teacher import refuse_without_teacher, targets_of

log = logging.getLogger(__name__)
# Of TUNE: what the search is, and the RUN of its winner.
TUNE_FILE, BEST_RUN = "tune.yaml", "best"
# What a user chooses for the published setting too: not of a paper's method.
BUDGET = ("epochs", "batch_size", "model")
# Sources of trials that nobody proposed: the published setting, and the one to start from.
PUBLISHED, START = "paper", "start"
GIVEN = (PUBLISHED, START)
# Of the first trial of each further objective that is searched.
FIRST = "first"
# Of a cluster, each {"CPU": ..., "GPU": ...}.
Nodes = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Search:
    """All that trials, winner and page need to know of a search; it travels to other nodes."""

    config: TuneConfig
    space: Space
    # What a look at a trial calls each objective.
    metrics: tuple[str, ...]
    # The first trials, each (point, source): a grid's cells, else the settings that are GIVEN.
    first_points: tuple[tuple[Point, str], ...]
    # All of a paper's setting but the budget; empty where none is published.
    published: Point
    # What keeps the published setting from being a trial; empty where nothing does.
    why_untried: str
    # Of the longest trial.
    most_epochs: int
    # These two, and the workers and the precision of `config`, are decided on a cluster.
    nodes: Nodes = ()
    gpus_per_worker: float = 0.0

    def trial(self, point: Point) -> TrainConfig:
        """Return the configuration of a point's trial: short, with some images held out."""
        config = self.config
        settings = settings_of(point, self.start(point), config.trial_epochs)
        return self._train(point, {"validation": config.validation, **settings})

    def full(self, point: Point) -> TrainConfig:
        """Return the configuration that trains a point at full length on all training images."""
        flat = {**settings_of(point, self.start(point)), "validation": 0.0}
        if self.config.workers not in (None, self.config.train.workers):
            flat |= {"workers": self.config.workers, "most_workers": None}
        return self._train(point, flat)

    @property
    def bare_points(self) -> list[Point]:
        """A point for each objective that is searched, which says nothing else."""
        if "objective" not in self.space:
            return [{}]
        return [{"objective": name} for name in extreme_values(self.space["objective"])]

    @property
    def full_starts(self) -> list[TrainConfig]:
        """What each objective's winner would be trained with, were its start the winner."""
        return [self.full(bare) for bare in self.bare_points]

    @property
    def objectives(self) -> str:
        """The training methods of its trials, for people."""
        usual = self.config.train.objective
        return ", ".join(str(point.get("objective", usual)) for point in self.bare_points)

    def start(self, point: Point) -> TrainConfig:
        """Return what a point's settings are put over: what trials of its objective start from."""
        return start_of(self.config, point.get("objective", self.config.train.objective))

    @property
    def paper(self) -> TrainConfig:
        """The published setting in full, or the one that the search started from.

        The published one is all of the paper's, whether or not a trial could have it; it starts
        from no other's weights.
        """
        return self.full({**self.published, "init": None} if self.published else {})

    def _train(self, point: Point, flat: Point) -> TrainConfig:
        return TrainConfig.make(nest(flat, self.start(point).model_dump())).resolved()


def start_of(config: TuneConfig, objective: str) -> TrainConfig:
    """Return what trials of an objective start from: `train`, or over it what `starts` says."""
    if objective == config.train.objective:
        return config.train
    flat = {**config.starts.get(objective, {}), "objective": objective}
    return TrainConfig.make(nest(flat, config.train.model_dump())).resolved()


def resolve_search(config: TuneConfig) -> Search:
    """Return the search of a configuration; UserError for a SPEC that cannot be read."""
    space = read_space(config.search)
    most_epochs = config.trial_epochs or config.train.epochs
    if "epochs" in space:
        most_epochs = max(int(value) for value in extreme_values(space["epochs"]))
    own, published = _flat_settings(config.train), _published_settings(config.train)
    why_untried = _why_untried(space, own, published)
    given = [(PUBLISHED, {**own, **published})] if published and not why_untried else []
    others = extreme_values(space["objective"]) if "objective" in space else []
    firsts = [(FIRST, _flat_settings(start_of(config, name))) for name in others]
    return Search(
        config=config,
        space=space,
        metrics=tuple(TUNE_OBJECTIVES[name] for name in config.objectives),
        first_points=_first_points(space, config, [*given, (START, own), *firsts]),
        published=published,
        why_untried=why_untried,
        most_epochs=most_epochs,
    )


def _flat_settings(train: TrainConfig) -> Point:
    resolved = train.resolved()
    return {**resolved.model_dump(), **resolved.settings}


def _published_settings(train: TrainConfig) -> Point:
    """Return what a paper says of this run but the budget, its schedule at this run's epochs."""
    entry = published_for(train)
    settings = entry.at_epochs(train.epochs) if entry else {}
    # Where a teacher lies is not the paper's either.
    left_out = (*BUDGET, *OBJECTIVES[train.objective].earlier_results)
    return {key: value for key, value in settings.items() if key not in left_out}


def _why_untried(space: Space, own: Point, published: Point) -> str:
    if published and own["init"]:
        return f"it starts from no other's weights, here from those of {own['init']}"
    point = {setting_of(key): key for key in active(space, own["objective"])}
    for key, value in {**own, **published}.items():
        if key in point and not holds_value(space[point[key]], value):
            return f"its {key} is {value}, which the search does not hold"
        if key in published and key not in point and own.get(key) != value:
            return f"its {key} is {value}, here it is {own.get(key)}"
    return ""


def _first_points(
    space: Space, config: TuneConfig, given: Sequence[tuple[str, Point]]
) -> tuple[tuple[Point, str], ...]:
    """Return a grid's cells, else those of the given settings that the space holds, each once."""
    if config.sampler == "grid":
        return tuple((point, "grid") for point in grid_points(space))
    found: list[tuple[Point, str]] = []
    for source, settings in given:
        point = point_of(space, settings)
        is_held = all(holds_value(space[key], value) for key, value in point.items())
        if is_held and point not in [known for known, _ in found]:
            found.append((point, source))
    return tuple(found[: config.trials])


def check_search(search: Search) -> None:
    """Raise UserError for a value that training refuses: now, not in one trial after the other."""
    for bare in search.bare_points:
        _check_augmentation(search.full(bare))
        refuse_without_teacher(search.full(bare).build_objective())
        for key, distribution in active(search.space, bare.get("objective")).items():
            if key != "objective":
                _check_key(search, bare, key, distribution)
    for point, _ in search.first_points:
        search.full(point)
    cells, trials = len(search.first_points), search.config.trials
    if search.config.sampler == "grid" and cells != trials:
        raise UserError(f"trials is {trials}: the grid has {cells}")


def check_data(search: Search, split: ImageSplit) -> None:
    """Raise UserError where the images to train on, or the results to learn from, fit no trial."""
    for bare in search.bare_points:
        trial, full = search.trial(bare), search.full(bare)
        for why in what_never_acts(trial):
            log.warning("in a trial %s", why)
        (held_in, held_out), workers = images_of(trial, split), search.config.workers or 1
        if len(held_out) < workers:
            raise UserError(
                f"validation is {trial.validation:g}: of {len(held_in) + len(held_out):,} images "
                f"{len(held_out):,} would be held out to judge trials by, and at least {workers} "
                "must be"
            )
        targets_of(full.build_objective(), split, images_of(full, split)[0], warn=True)
        for point in _points_to_check(search, bare):
            for each in (search.full(point), search.trial(point)):
                check_fit(each, split)


def read_own_search(out: Place, search: Search, split: ImageSplit) -> dict[str, Any] | None:
    """Return tune.yaml of this search's earlier start, or None for none.

    Raises UserError when TUNE belongs to another search, or the training images (`split`) or the
    earlier results that its trials start from are no longer the same, or more or fewer trials could
    have another winner than the one it has trained.
    """
    config = search.config
    record = read_own_record(out, TUNE_FILE, config, "search")
    if record is None:
        return None
    refuse_other_data(record, out, split)
    refuse_other_results(record, out, *search.full_starts)
    before = record.get("trials")
    if before != config.trials and (out / BEST_RUN).exists():
        raise UserError(
            f"trials is {config.trials} now but was {before}, and {out} has trained its winner: "
            "use another --out"
        )
    return record


def _points_to_check(search: Search, bare: Point) -> list[Point]:
    """Return points of an objective with each end of what is no rate or weight, one at a time."""
    ends = {
        key: extreme_values(distribution)
        for key, distribution in active(search.space, bare.get("objective")).items()
        if key != "objective" and not isinstance(distribution, FloatDistribution)
    }
    first = {**bare, **{key: values[0] for key, values in ends.items()}}
    return [first, *({**first, key: end} for key, values in ends.items() for end in values[1:])]


def _check_key(search: Search, bare: Point, key: str, distribution: BaseDistribution) -> None:
    """Raise UserError for a value at the ends of a range, or between them, that is refused."""
    for value in extreme_values(distribution):
        _check_augmentation(search.full({**bare, key: value}))
    if isinstance(distribution, FloatDistribution):
        between = distribution.low + (distribution.high - distribution.low) / math.pi
        try:
            search.full({**bare, key: between})
        except UserError as problem:
            raise UserError(f"{problem}; for whole numbers use {key}=int(low,high)") from None


def _check_augmentation(train: TrainConfig) -> None:
    """Raise UserError for an unknown name; the configuration has checked all others."""
    if train.augmentation is not None:
        choose(train.augmentation, AUGMENTATIONS, "augmentation")
