"""What a certification will cost: one actor's speed measured here, times the draws it needs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from rsray.certification.engine.compiled import nominal_speed
from rsray.certification.engine.evaluation import Evaluation, choose_evaluation
from rsray.certification.forecast import Forecast, forecast
from rsray.certification.request import CertificationRequest
from rsray.certification.sampling_plan import SamplingPlan
from rsray.config import PlanConfig
from rsray.core.hardware import dedicate_process, default_device, device_name, fastest_precision
from rsray.errors import UserError


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
        """Wall-clock hours with the fleet that was asked about."""
        return self.forecast.hours(self.settings.actors)

    @property
    def dollars(self) -> float | None:
        """The cost; None where no price was given."""
        price = self.settings.price
        return None if price is None else self.forecast.dollars(self.settings.actors, price)


def measure_plan(request: CertificationRequest, settings: PlanConfig) -> Plan:
    """Return what a certification will take, after measuring for about `settings.seconds`.

    With --sampling skip or adaptive the draws of a few images are decided as the run would, and the
    mean is taken. Raises UserError where the hardware that is asked about is not here.
    """
    config, source, split, selected, _ = request
    device = torch.device("cpu") if config.gpus_per_actor == 0 else default_device()
    if config.gpus_per_actor and device.type == "cpu":
        raise UserError(
            f"gpus-per-actor is {config.gpus_per_actor:g}, but no GPU is here to be measured"
        )
    gpus = 1.0 if config.gpus_per_actor is None or device.type == "cpu" else config.gpus_per_actor
    dedicate_process(1, config.gpus_per_actor or 0.0)
    precision = fastest_precision(config.precision, device)
    model = source.build(split).to(device)
    nominal = nominal_speed(model, split.image_shape, precision, device.type)
    evaluation = choose_evaluation(
        model,
        split.image_shape,
        precision=precision,
        device=device,
        compile=config.compile,
        work_seconds=len(selected.indices) * config.n / (nominal * settings.actors * gpus),
    )
    found = forecast(
        model,
        split,
        selected,
        config,
        SamplingPlan.of(config),
        evaluation,
        seconds=settings.seconds,
    )
    speed = found.draws_per_second * min(gpus, 1.0)
    found = replace(found, draws_per_second=speed)
    return Plan(request, settings, found, device_name(device), evaluation, gpus)
