"""How fast a configuration trains and is looked at here, from a second or so of doing it."""

from __future__ import annotations

import time
from typing import NamedTuple

import torch

from rsray.config import TrainConfig
from rsray.training.loop import Training

MEASURED_SECONDS = 1.0
# A large network takes seconds for a batch of these.
MEASURED_IMAGES, MEASURED_SHARE_HELD_OUT, DRAWS_OF_A_LOOK = 32, 0.25, 64


class Speed(NamedTuple):
    """Noisy images a second: in training steps, and forward alone."""

    training: float
    forward: float


def measure_speed(config: TrainConfig, device: torch.device, threads: int) -> Speed:
    """Return the speed on `threads` threads, from epochs of one small batch; nothing is written."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _measured(config, device)
    finally:
        torch.set_num_threads(before)


def _measured(config: TrainConfig, device: torch.device) -> Speed:
    own = {"limit": MEASURED_IMAGES, "validation": MEASURED_SHARE_HELD_OUT, "epochs": 10**6}
    # So many steps on so few images must not diverge.
    own["lr"] = 1e-9
    training = Training(config.model_copy(update=own), None, device)
    until, speed = time.perf_counter() + MEASURED_SECONDS, 0.0

    def is_enough(figures: dict[str, float]) -> bool:
        nonlocal speed
        speed = max(speed, figures["draws_per_second"])
        # The first step pays for what later ones find ready.
        return figures["epoch"] > 0 and time.perf_counter() > until

    training.run_epochs(is_enough)
    started = time.perf_counter()
    training.project_acr(DRAWS_OF_A_LOOK)
    draws = len(training.held_out) * DRAWS_OF_A_LOOK
    return Speed(speed, draws / (time.perf_counter() - started))
