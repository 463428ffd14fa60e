"""The evaluation of a run's network, measured on a machine with the cores of a counting process."""

from __future__ import annotations

from dataclasses import replace

import torch

from rsray.certification.engine.compiled import nominal_speed
from rsray.certification.engine.evaluation import Evaluation, choose_evaluation
from rsray.certification.request import CertificationRequest
from rsray.core.hardware import dedicate_process, fastest_precision


def measure_evaluation(
    request: CertificationRequest, *, processors: float, threads: int, gpus: float = 0.0
) -> Evaluation:
    """Return the fastest evaluation here, for a run that has so many GPUs or CPU cores in all."""
    config = request.config
    dedicate_process(threads, gpus)
    device = torch.device("cuda" if gpus > 0 else "cpu")
    model, shape = request.source.build(request.split).to(device), request.split.image_shape
    # Of the process that counts, not of the driver.
    precision = fastest_precision(config.precision, device)
    speed = nominal_speed(model, shape, precision, device.type)
    chosen = choose_evaluation(
        model,
        shape,
        precision=precision,
        device=device,
        compile=config.compile,
        work_seconds=len(request.selected.indices) * config.n / (speed * processors),
    )
    return replace(chosen, gpus=gpus or None)
