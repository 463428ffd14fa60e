"""What a certification will cost: one actor's speed measured here, times the draws it needs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from rsray.certification.counting.counter import measure_evaluation
from rsray.certification.engine.evaluation import Evaluation
from rsray.certification.forecast import Forecast, forecast
from rsray.certification.request import CertificationRequest
from rsray.config import PlanConfig
from rsray.core.hardware import default_device, device_name
from rsray.errors import UserError

# An actor's start: processes, imports, the network.
START_SECONDS = 15.0


@dataclass(frozen=True)
class Plan:
    """The draws, hours and dollars that a certification will take."""

    request: CertificationRequest
    settings: PlanConfig
    forecast: Forecast
    device_name: str
    evaluation: Evaluation
    # Of one actor; 1 of a CPU core where there are none
    gpus: float

    @property
    def core_hours(self) -> float:
        """Hours of counting, of one GPU or CPU core."""
        return self.forecast.actor_hours() * self.gpus

    @property
    def hours(self) -> float:
        """Expected wall-clock hours with the fleet that was asked about."""
        return self.forecast.actor_hours() / self.settings.actors + START_SECONDS / 3600

    @property
    def dollars(self) -> float | None:
        """The cost, start-up included; None where no price was given."""
        price = self.settings.price
        return None if price is None else self.hours * self.settings.actors * price


def measure_plan(request: CertificationRequest, settings: PlanConfig) -> Plan:
    """Return what a certification will take, after measuring for about `settings.seconds`.

    With --sampling skip or adaptive the draws of a few images are decided as the run would, and the
    mean is taken. Raises UserError where the hardware that is asked about is not here.
    """
    wanted = request.config.gpus_per_actor
    device = torch.device("cpu") if wanted == 0 else default_device()
    is_on_cpu = device.type == "cpu"
    if wanted and is_on_cpu:
        raise UserError(f"gpus-per-actor is {wanted:g}, but no GPU is here to be measured")
    gpus = 1.0 if wanted is None or is_on_cpu else wanted
    evaluation = measure_evaluation(
        request,
        processors=settings.actors * gpus,
        threads=1,
        gpus=0.0 if is_on_cpu else gpus,
    )
    found = forecast(request, evaluation, seconds=settings.seconds)
    speed = found.draws_per_second * min(gpus, 1.0)
    found = replace(found, draws_per_second=speed)
    return Plan(request, settings, found, device_name(device), evaluation, gpus)
