"""Optimisers and the learning rate of each epoch, as the settings name them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adam, Optimizer

from rsray.config import TrainConfig

# Of Adam's mean of squared gradients; that of its mean gradient is the momentum.
SECOND_BETA = 0.999
OPTIMISERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": lambda weights, momentum, **common: SGD(weights, momentum=momentum, **common),
    "adam": lambda weights, momentum, **common: Adam(
        weights, betas=(momentum, SECOND_BETA), **common
    ),
}


def make_optimiser(config: TrainConfig, module: nn.Module, device: torch.device) -> Optimizer:
    """Return the optimiser of a module; on a GPU one kernel updates all weights."""
    common: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if device.type == "cuda":
        common["fused"] = True
    return OPTIMISERS[config.optimizer](module.parameters(), config.momentum, **common)


def what_never_acts(config: TrainConfig) -> list[str]:
    """Return in a line each what has no effect: a part that waits in vain, or a setting."""
    waiting, never = _waits_in_vain(config), [d for d in config.lr_drops if d >= config.epochs]
    found = [waiting] if waiting else []
    if config.lr_schedule == "cosine":
        if config.lr_decay != TrainConfig.model_fields["lr_decay"].default:
            found.append(f"lr_decay is {config.lr_decay:g}, but lr falls along a cosine: no effect")
    elif never and "lr_drops" not in waiting:
        found.append(f"lr_drops {never} never come: epochs is {config.epochs}")
    if config.lr_warm_up > config.epochs:
        found.append(
            f"lr is never reached: epochs is {config.epochs}, lr_warm_up {config.lr_warm_up}"
        )
    return found


def _waits_in_vain(config: TrainConfig) -> str:
    """Return in a line which part of an objective waits for what never comes, or nothing."""
    objective = config.build_objective()
    if objective.acts_from >= config.epochs:
        return (
            f"{config.objective} waits for the end of its warm-up, which never comes, and is plain "
            f"cross entropy until then: epochs is {config.epochs}, warm_up_epochs "
            f"{objective.acts_from}; give more epochs, or a shorter warm-up (0 is for --init)"
        )
    way_out = objective.without_drop
    if not way_out or any(drop < config.epochs for drop in config.lr_drops):
        return ""
    return (
        f"{config.objective} waits for the first learning-rate drop, which never comes: epochs is "
        f"{config.epochs}, lr_drops {list(config.lr_drops)}; give --set {way_out}, or "
        "lr_drops within the epochs"
    )


def lr_factor(config: TrainConfig, epoch: int) -> float:
    """Return what `lr` is multiplied by in an epoch (from 0): warm-up, then drops or a cosine.

    The warm-up ends with the full rate in its last epoch, and the cosine begins with it, as in
    NVIDIA's recipe for ResNet-50, whose other settings ADRE takes too.
    """
    warm_up = config.lr_warm_up
    if epoch < warm_up:
        return (epoch + 1) / warm_up
    if config.lr_schedule == "cosine":
        # A rate after the last epoch is computed, too.
        share = min(1.0, (epoch - warm_up) / max(1, config.epochs - warm_up))
        return (1 + math.cos(math.pi * share)) / 2
    return float(config.lr_decay ** sum(drop <= epoch for drop in config.lr_drops))
