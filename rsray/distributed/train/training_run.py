"""A training run, resolved once: where and how it trains, for its driver and its workers."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import torch

from rsray.config import TrainConfig
from rsray.core.hardware import default_device
from rsray.data import DATASETS, ImageSplit, absolute_root
from rsray.distributed.session import cluster_gpus
from rsray.errors import UserError
from rsray.storage import Place
from rsray.training.feeds import is_streamed


@dataclass(frozen=True)
class TrainingRun:
    """All that training needs to know of a run; it travels to the workers."""

    # Its data root is the same from every working directory.
    config: TrainConfig
    # RUN.
    place: Place
    # Of this process: a worker has its own.
    device: torch.device
    # Whether images are read while the training goes on, by Ray Data.
    is_streamed: bool
    # Whether it trains in this process, without a group of workers.
    is_here: bool
    # Of a worker; on_cluster decides it for a group.
    gpus: float

    def on_cluster(self) -> TrainingRun:
        """Return the run with its workers' GPUs decided: as asked for, else 1 where there are."""
        if self.config.gpus_per_worker is not None:
            return self
        return replace(self, gpus=float(cluster_gpus() > 0))


def resolve_training(
    config: TrainConfig, place: Place, split: ImageSplit, address: str | None
) -> TrainingRun:
    """Return the run of a configuration; UserError for GPUs that are not here.

    One worker without a cluster trains in this process. Several workers, a cluster, or images that
    do not stay in memory need a group.
    """
    augmentation = config.augmentation or DATASETS[config.dataset].augmentation
    streamed = is_streamed(split, min(len(split), config.limit or len(split)), augmentation)
    has_cluster = bool(address) or "RAY_ADDRESS" in os.environ
    is_alone = max(config.workers, config.most_workers or 1) == 1
    is_here = is_alone and not has_cluster and not streamed
    gpus = config.gpus_per_worker or 0.0
    device = torch.device("cpu") if config.gpus_per_worker == 0 else default_device()
    if is_here and gpus and device.type == "cpu":
        raise UserError(f"gpus-per-worker is {gpus:g}, but no GPU is here")
    root = absolute_root(config.dataset, config.data_root)
    config = config.model_copy(update={"data_root": root})
    return TrainingRun(config, place, device, streamed, is_here, gpus)
