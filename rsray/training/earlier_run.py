"""Results that a run learns from: their weights, what they were trained on, what they hold."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Any

from torch import nn

from rsray import models
from rsray.config import TrainConfig
from rsray.data import DATASETS, ImageSplit
from rsray.data.fingerprint import fingerprint, is_same
from rsray.errors import UserError
from rsray.models import MODELS
from rsray.models.normalise import normalisation_in_training
from rsray.objectives import Objective
from rsray.storage import Place
from rsray.storage.yaml_files import from_yaml

log = logging.getLogger(__name__)
# What a finished CERT, or RUN, ends with.
LAST_FILES = ("certificates.parquet", "model.safetensors")


def digest_of(where: str) -> str:
    """Return the SHA-256 of what a RUN or CERT ends with; UserError for an unfinished one."""
    folder = Place.of(where)
    last = next((name for name in LAST_FILES if folder.exists(name)), None)
    if last is None:
        raise UserError(f"{where} is no finished RUN or CERT: it lacks {' and '.join(LAST_FILES)}")
    return sha256(folder.read(last)).hexdigest()


def finished_run(where: str, split: ImageSplit) -> tuple[bytes, dict[str, Any]]:
    """Return weights and run.yaml of a RUN; UserError unless it knows the split's classes."""
    folder = Place.of(where)
    if not (folder.exists("run.yaml") and folder.exists("model.safetensors")):
        raise UserError(f"{where} is no finished RUN: it lacks run.yaml or model.safetensors")
    record = from_yaml(folder.read("run.yaml"), f"{where}/run.yaml")
    wanted = {"classes": list(split.classes), "image_shape": list(split.image_shape)}
    for key, value in wanted.items():
        if record.get(key) != value:
            raise UserError(f"{where} was trained with other {key} than those of {split.name}")
    return folder.read("model.safetensors"), record


def start_weights(model: nn.Module, config: TrainConfig, split: ImageSplit) -> None:
    """Give a new model the weights of the RUN that `init` names, where it names one.

    UserError unless that is the same network, behind the same normalisation, trained on the same
    data: certify tells whether test images were trained on by the data of the last run alone.
    """
    if config.init is None:
        return
    weights, record = finished_run(config.init, split)
    if not is_same(record.get("data_fingerprint") or {}, fingerprint(split, sampled=False)):
        raise UserError(
            f"init {config.init} was trained on other images than those of {split.name}"
        )
    layer = normalisation_in_training(config.model, DATASETS[config.dataset].statistics)
    wanted = {"model": config.model, "model_args": config.model_args, "normalisation": layer.text}
    for key, value in wanted.items():
        if record.get(key) != value:
            raise UserError(f"init {config.init} has {key} {record.get(key)!r}, not {value!r}")
    models.load_weights(model, weights, f"{config.init}/model.safetensors")


def companion_of(objective: Objective, split: ImageSplit) -> nn.Module | None:
    """Return the network beside the one that is trained, or None.

    It is the objective's own, or its guide: the classifier of a RUN of the split's classes, in
    evaluation mode and not to be trained. UserError for a RUN of others.
    """
    where = objective.guide
    if where is None:
        return objective.companion(split.num_classes)
    weights, record = finished_run(where, split)
    name, dataset = str(record.get("model")), str(record.get("dataset"))
    if name not in MODELS or dataset not in DATASETS:
        raise UserError(f"{where} is of the network {name!r}: one of {', '.join(MODELS)} is needed")
    network = models.build(
        name,
        image_shape=split.image_shape,
        num_classes=split.num_classes,
        statistics=DATASETS[dataset].statistics,
    )
    models.load_weights(network, weights, f"{where}/model.safetensors")
    return network.eval().requires_grad_(False)


def warn_if_judged_by_seen_images(trials: Iterable[TrainConfig]) -> None:
    """Warn, once, where the images held out of a search's trials were not held out by `init`.

    That RUN may have begun from another one, which counts as well.
    """
    for why in dict.fromkeys(map(_why_seen, trials)):
        if why:
            log.warning("%s", why)


def _why_seen(trial: TrainConfig) -> str:
    """Return in a line which RUN saw the images that a trial is judged by, or nothing."""
    own = {key: getattr(trial, key) for key in ("validation", "seed", "limit")}
    limit = "" if trial.limit is None else f" --limit {trial.limit}"
    for where, record in _line_of_starts(trial.init):
        if any(record.get(key) != value for key, value in own.items()):
            return (
                f"init {where} was trained on images that the trials are judged by: their "
                "projected ACR is too large, all alike; trained with --set "
                f"validation={trial.validation} --seed {trial.seed}{limit} it would not be"
            )
    return ""


def _line_of_starts(init: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a RUN and its record, then those of the RUN that it began from, and so on."""
    seen: set[str] = set()
    while init is not None and init not in seen:
        seen.add(init)
        try:
            folder = Place.of(init)
            record = from_yaml(folder.read("run.yaml"), f"{folder}/run.yaml")
        except (UserError, OSError):
            # The first is looked at where it is opened; its own start may be gone.
            return
        yield init, record
        following = record.get("init")
        init = following if isinstance(following, str) else None
