"""The second network of an objective: one that it trains itself, or a RUN that stays frozen."""

from __future__ import annotations

from torch import nn

from rsray import models
from rsray.data import DATASETS, ImageSplit
from rsray.errors import UserError
from rsray.models import MODELS
from rsray.objectives import Objective
from rsray.training.earlier_run import finished_run


def companion_of(objective: Objective, split: ImageSplit) -> nn.Module | None:
    """Return the network beside the one that is trained, or None; UserError for a RUN of others."""
    if objective.guide is None:
        return objective.companion(split.num_classes)
    return _frozen_run(objective.guide, split)


def _frozen_run(where: str, split: ImageSplit) -> nn.Module:
    """Return a RUN's classifier of the split's classes, in evaluation mode, not to be trained."""
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
