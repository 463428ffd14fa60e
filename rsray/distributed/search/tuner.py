"""A search from start to end: trials, the winner, its certificates beside the paper's, the page."""

from __future__ import annotations

import math

import torch
from optuna.distributions import FloatDistribution

from rsray.config import TrainConfig, TuneConfig
from rsray.core.hardware import resolve_precision
from rsray.distributed.search.search import run_search
from rsray.distributed.search.space import distributions, ends
from rsray.distributed.search.study import first_points, open_study, winner, write_trials
from rsray.distributed.search.study_page import write_page, write_study
from rsray.distributed.search.trial_resources import (
    cluster_nodes,
    gpus_per_worker,
    may_have_groups,
    with_workers,
)
from rsray.distributed.search.winner import (
    Finals,
    cluster_precision,
    full_config,
    train_and_certify,
)
from rsray.distributed.session import session
from rsray.errors import UserError
from rsray.family import choose
from rsray.models import MODELS
from rsray.progress import Watch
from rsray.storage import Place
from rsray.storage.ownership import read_own_record
from rsray.storage.yaml_files import from_yaml, to_yaml
from rsray.training.augment import AUGMENTATIONS
from rsray.versions import versions

TUNE_FILE, BEST = "tune.yaml", "best.yaml"


def tune(
    config: TuneConfig, out: Place, *, address: str | None = None, watch: Watch | None = None
) -> Finals:
    """Search, then train and certify the winner and the paper's setting; returns their summaries.

    TUNE is complete when this returns. Trials, training and certification that TUNE already holds
    are not repeated. Raises UserError when TUNE belongs to another search or every trial failed.
    """
    watch = watch or Watch()
    claim_tune(out, config)
    # Groups of workers inside trials leak their resources where Ray has no dashboard.
    with out.locked(), session(address, dashboard=may_have_groups(config)):
        watch.phase("search")
        config = _with_precision(with_workers(config, cluster_nodes()), out)
        study = open_study(out, config)
        run_search(config, study, out, watch)
        write_trials(out, study, config)
        write_study(out, study, config)
        best = full_config(config, winner(study).params)
        out.write(BEST, to_yaml(best.model_dump(mode="json")))
        finals = train_and_certify(config, best, out, address, watch)
        write_page(out, study, config)
        return finals


def _with_precision(config: TuneConfig, out: Place) -> TuneConfig:
    """Return the search with its precision decided, so that best.yaml trains the same anywhere.

    A best.yaml that is there already has decided it: TUNE may go on on other hardware.
    """
    if "precision" in config.search:
        return config
    if out.is_file(BEST):
        precision = from_yaml(out.read(BEST), BEST).get("precision")
    else:
        gpus = gpus_per_worker(config, cluster_nodes())
        precision = cluster_precision(config.train.precision, gpus)
    train = config.train.model_copy(update={"precision": precision})
    return config.model_copy(update={"train": train})


def claim_tune(out: Place, config: TuneConfig) -> None:
    """Make TUNE this search's own; UserError when it belongs to another, or cannot be run."""
    _check_values(config)
    for point, _ in first_points(config):
        full_config(config, point)
    if config.sampler == "grid" and len(first_points(config)) != config.trials:
        raise UserError(f"trials is {config.trials}: the grid has {len(first_points(config))}")
    if read_own_record(out, TUNE_FILE, config, "search") is None:
        record = {**config.model_dump(mode="json"), "versions": versions()}
        out.make().write(TUNE_FILE, to_yaml(record))


def _check_values(config: TuneConfig) -> None:
    """Raise UserError for a value that training refuses: now, not in one trial after the other."""
    _check_names(full_config(config, {}))
    for key, distribution in distributions(config.search).items():
        for value in ends(distribution):
            _check_names(full_config(config, {key: value}))
        if isinstance(distribution, FloatDistribution):
            between = distribution.low + (distribution.high - distribution.low) / math.pi
            try:
                full_config(config, {key: between})
            except UserError as problem:
                raise UserError(f"{problem}; for whole numbers use {key}=int(low,high)") from None


def _check_names(train: TrainConfig) -> None:
    """Raise UserError for an unknown name; a model of the user's own is imported by its trial."""
    if ":" not in train.model:
        choose(train.model, MODELS, "model")
    if train.augmentation is not None:
        choose(train.augmentation, AUGMENTATIONS, "augmentation")
    resolve_precision(train.precision, torch.device("cpu"))
