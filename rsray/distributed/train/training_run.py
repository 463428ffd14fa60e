"""A training run, resolved once: where and how it trains, for its driver and its workers."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import torch

from rsray.config import TrainConfig
from rsray.core.hardware import default_device
from rsray.data import DATASETS, ImageSplit, absolute_root
from rsray.distributed.capacity import capacity
from rsray.errors import UserError
from rsray.storage import Place
from rsray.training.batches.feeds import is_streamed
from rsray.training.batches.reader import RESIZED_CROP


@dataclass(frozen=True)
class TrainingRun:
    """All that training needs to know of a run; it travels to the workers."""

    # Its data root is absolute.
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

    @classmethod
    def of(
        cls, config: TrainConfig, place: Place, split: ImageSplit, address: str | None = None
    ) -> TrainingRun:
        """Return the run of a configuration; UserError for GPUs that are not here.

        One worker without a cluster trains in this process, unless images are streamed.
        """
        is_alone = max(config.workers, config.most_workers or 1) == 1
        num_images = min(len(split), config.limit or len(split))
        streams = is_streamed(split, num_images, _augmentation(config))
        is_here = is_alone and not (streams or address or "RAY_ADDRESS" in os.environ)
        device = torch.device("cpu") if config.gpus_per_worker == 0 else default_device()
        if is_here and config.gpus_per_worker and device.type == "cpu":
            raise UserError(f"gpus-per-worker is {config.gpus_per_worker:g}, but no GPU is here")
        root = absolute_root(config.dataset, config.data_root)
        return cls(
            config=config.model_copy(update={"data_root": root}),
            place=place,
            device=device,
            is_streamed=streams,
            is_here=is_here,
            gpus=config.gpus_per_worker or 0.0,
        )

    def on_cluster(self) -> TrainingRun:
        """Return the run with its workers' GPUs decided: as asked for, else 1 where some can be."""
        if self.config.gpus_per_worker is not None:
            return self
        return replace(self, gpus=float(capacity().most_gpus > 0))


def may_stream(config: TrainConfig) -> bool:
    """Tell, without opening the data set, whether its images are read in every epoch anew."""
    return _augmentation(config) == RESIZED_CROP


def _augmentation(config: TrainConfig) -> str:
    return config.augmentation or DATASETS[config.dataset].augmentation
