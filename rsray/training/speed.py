"""How fast a configuration trains and is looked at here, from a second or so of doing it."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from rsray.config import TrainConfig
from rsray.training.batches.feeds import OpenFeed, ReadAheadFeed
from rsray.training.batches.schedule import Schedule
from rsray.training.batches.sending import Pair
from rsray.training.loop import Training

MEASURED_SECONDS = 1.0
# A companion that steps more rarely costs next to nothing.
LONGEST_PERIOD = 50
# A large network takes seconds for a batch of these.
MEASURED_IMAGES, MEASURED_SHARE_HELD_OUT, DRAWS_OF_A_LOOK = 32, 0.25, 64


class Speed(NamedTuple):
    """Noisy images a second: in training steps, and forward alone."""

    training: float
    forward: float


def measure_speed(
    config: TrainConfig, device: torch.device, threads: int, seconds: float = MEASURED_SECONDS
) -> Speed:
    """Return the speed on `threads` threads, from epochs of one small batch; nothing is written."""
    own = {"limit": MEASURED_IMAGES, "validation": MEASURED_SHARE_HELD_OUT}
    with _on_threads(threads):
        training, speed = _trained(config.model_copy(update=own), device, seconds)
        started = time.perf_counter()
        training.project_acr(DRAWS_OF_A_LOOK)
        draws = len(training.held_out) * DRAWS_OF_A_LOOK
        return Speed(speed, draws / (time.perf_counter() - started))


def measure_steps(
    config: TrainConfig, device: torch.device, threads: int, *, images: int, seconds: float
) -> float:
    """Return the noisy images a second of steps of so many images; nothing is written.

    The images are read once: how fast a disk is, or a decoder, does not show.
    """
    own = {"limit": images, "batch_size": images, "validation": 0.0}
    with _on_threads(threads):
        return _trained(config.model_copy(update=own), device, seconds, Repeated)[1]


class Repeated(ReadAheadFeed):
    """The batches of the first epoch, again in each."""

    def batches(self, schedule: Schedule, epoch: int, first: int = 0) -> Iterator[Pair]:
        """Yield the images of each share."""
        if "read" not in self.__dict__:
            self.__dict__["read"] = list(super().batches(schedule, 0))
        yield from self.__dict__["read"][first:]


@contextmanager
def _on_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _trained(
    config: TrainConfig, device: torch.device, seconds: float, open_feed: OpenFeed = ReadAheadFeed
) -> tuple[Training, float]:
    """Return a training after some seconds of it, and the whole run's noisy images a second."""
    # So many steps on so few images must not diverge, nor be compiled, which takes minutes.
    endless = config.model_copy(update={"epochs": 10**6, "lr": 1e-9, "compile": "off"})
    training = Training(endless, None, device, open_feed=open_feed)
    epochs_alike = _epochs_alike(config)
    seconds_of_a_draw = sum(
        epochs / _speed_from(training, first, seconds / len(epochs_alike))
        for first, epochs in epochs_alike.items()
    )
    return training, config.epochs / seconds_of_a_draw


def _epochs_alike(config: TrainConfig) -> dict[int, int]:
    """Return an epoch of each form that the objective takes, and how many are counted as it.

    A warm-up's first epochs may cost a fraction of the last ones, which have an attack.
    """
    objective, last = config.build_objective(), config.epochs - 1
    first, final = (objective.at_epoch(epoch, config.lr_drops) for epoch in (0, last))
    if first == final:
        return {0: config.epochs}

    def is_later(epoch: int) -> bool:
        return objective.at_epoch(epoch, config.lr_drops) != first

    # What has become of a warm-up does not come back.
    as_first = bisect_left(range(config.epochs), True, key=is_later)
    return {0: as_first, last: config.epochs - as_first}


def _speed_from(training: Training, first: int, seconds: float) -> float:
    """Return the noisy images a second of the epochs from `first` on."""
    training.epoch, until, speed = first, time.perf_counter() + seconds, 0.0
    period, costs = _companion_period(training), []

    def is_enough(figures: dict[str, float]) -> bool:
        nonlocal speed
        costs.append((figures["draws_per_second"] * figures["seconds"], figures["seconds"]))
        if len(costs) >= period:
            draws, taken = map(sum, zip(*costs[-period:], strict=True))
            speed = max(speed, draws / taken)
        # The first step pays for what later ones find ready.
        return len(costs) > period and time.perf_counter() > until

    training.run_epochs(is_enough)
    return speed


def _companion_period(training: Training) -> int:
    """Return after how many steps, here epochs, the companion has had its own again; 1 of none."""
    if training.companion is None:
        return 1
    due = training.config.build_objective().companion_due
    return next((n for n in range(1, LONGEST_PERIOD) if due(n - 1)), 1)
