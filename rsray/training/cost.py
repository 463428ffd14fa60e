"""What a training run will cost: the speed of one worker's steps, measured here, times the work."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rsray.config import PlanConfig
from rsray.core.hardware import default_device, device_name, resolve_precision
from rsray.errors import UserError
from rsray.training.request import TrainingRequest
from rsray.training.run_folder.run import check_settings
from rsray.training.speed import measure_steps

# A worker's start: processes, imports, the data.
START_SECONDS = 15.0
# Of a first step that is timed: only where it is quick a worker's whole share is timed, too.
FEW_DRAWS = 64


@dataclass(frozen=True)
class TrainingPlan:
    """The steps, hours and dollars that a training run will take."""

    request: TrainingRequest
    settings: PlanConfig
    # Noisy images a second of one worker.
    draws_per_second: float
    device: torch.device
    device_name: str
    precision: str

    @property
    def images_per_second(self) -> float:
        """The images that all workers read a second."""
        return self.draws_per_second * self.settings.actors / self.request.num_draws

    @property
    def worker_hours(self) -> float:
        """Hours of steps, of all workers together."""
        return self.request.noisy_images / self.draws_per_second / 3600

    @property
    def hours(self) -> float:
        """Wall-clock hours with the workers that were asked about."""
        return self.worker_hours / self.settings.actors + START_SECONDS / 3600

    @property
    def dollars(self) -> float | None:
        """The cost; None where no price was given."""
        price = self.settings.price
        return None if price is None else self.hours * self.settings.actors * price


def plan_training(
    request: TrainingRequest,
    settings: PlanConfig,
    *,
    threads: int = 1,
    is_checked: bool = False,
) -> TrainingPlan:
    """Return what a run will take, after measuring steps for about `settings.seconds`.

    A worker is a GPU, where there is one to use, or so many CPU cores. Workers are taken to share
    the work evenly, and images to come as fast as they are used. Raises UserError where the
    hardware that is asked about is not here, and where the run would, unless that `is_checked`.
    """
    config = request.config
    device = torch.device("cpu") if config.gpus_per_worker == 0 else default_device()
    if config.gpus_per_worker and device.type == "cpu":
        wanted = config.gpus_per_worker
        raise UserError(f"gpus-per-worker is {wanted:g}, but no GPU is here to be measured")
    if not is_checked:
        check_settings(config, request.split, device)
    share = max(1, min(config.batch_size // settings.actors, request.num_trained))
    few = max(1, min(share, FEW_DRAWS // request.num_draws))
    speed = measure_steps(config, device, threads, images=few, seconds=settings.seconds)
    if share * request.num_draws / speed < settings.seconds:
        speed = measure_steps(config, device, threads, images=share, seconds=settings.seconds)
    precision = resolve_precision(config.precision, device)
    return TrainingPlan(request, settings, speed, device, device_name(device), precision)
