"""What a certification run will cost, from a few seconds of measuring on the hardware at hand."""

# Shapes: N sampled images.
from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from rsray.certification.counting.counter import sampler_of_run
from rsray.certification.counts.store import Selected
from rsray.certification.engine.evaluation import Evaluation
from rsray.certification.engine.sampler import Sampler
from rsray.certification.request import CertificationRequest
from rsray.certification.sampling_plan import SamplingPlan
from rsray.data import ImageSplit
from rsray.errors import UserError
from rsray.storage import one_line

Floats = NDArray[np.float64]
# In a call that is timed: a run's calls cover several blocks, and fill their batches.
MOST_BATCHES_TIMED = 8


@dataclass(frozen=True)
class Forecast:
    """The draws of a run and the speed of one actor."""

    images: int
    # The mean over the sampled images, and its standard error: 0 when every image gets the same.
    draws_per_image: float
    draws_per_image_error: float
    sampled_images: int
    # Of one actor of the kind that was measured.
    draws_per_second: float

    @property
    def draws(self) -> float:
        """The expected draws of the run."""
        return self.images * self.draws_per_image

    def actor_hours(self) -> float:
        """Return the hours of counting of all actors together."""
        return self.draws / self.draws_per_second / 3600


def forecast(request: CertificationRequest, evaluation: Evaluation, *, seconds: float) -> Forecast:
    """Return the forecast of a run, measuring for about `seconds`.

    One image shows the speed, selection draws of some how many they want (with at-radius this is an
    estimate). Raises UserError when the network fails for an image.
    """
    config, split, selected = request.config, request.split, request.selected
    plan = SamplingPlan.of(config)
    sampler = sampler_of_run(request.source, evaluation, split, plan)
    try:
        rows_per_second = _speed(sampler, split, selected, plan, seconds / 2)
        wanted = _wanted(sampler, split, selected, plan, seconds / 2)
    except torch.AcceleratorError:  # the GPU's own trouble
        raise
    except Exception as problem:  # a user's model may raise anything at all
        raise UserError(f"an image cannot be measured: {one_line(problem)}") from problem
    draws = config.n0 + float(wanted.mean())
    return Forecast(
        images=len(selected.indices),
        draws_per_image=draws,
        draws_per_image_error=_standard_error(wanted),
        sampled_images=len(wanted),
        draws_per_second=rows_per_second * draws / float(_rows(wanted, plan, evaluation).mean()),
    )


def _standard_error(wanted_N: Floats) -> float:
    return float(wanted_N.std(ddof=1) / np.sqrt(len(wanted_N))) if len(wanted_N) > 1 else 0.0


def _rows(wanted_N: Floats, plan: SamplingPlan, evaluation: Evaluation) -> Floats:
    """Return the noisy images [N] that the network sees for an image: calls fill whole batches."""
    batch, block = evaluation.batch_size, plan.block_size
    # With at-radius a call makes about a batch, else all draws of the image.
    at_once = max(1, batch // block) * block if plan.at_radius else plan.n
    whole_N, rest_N = np.divmod(wanted_N, at_once)
    padded = [-(-np.asarray(draws) // batch) * batch for draws in (plan.n0, at_once)]
    return np.asarray(padded[0] + whole_N * padded[1] + -(-rest_N // batch) * batch)


def _speed(
    sampler: Sampler, split: ImageSplit, selected: Selected, plan: SamplingPlan, seconds: float
) -> float:
    """Return the draws per second of calls that cover whole batches, of several blocks."""
    index = int(selected.indices[0])
    image = split.images([index])[0]
    batch, block = sampler.evaluation.batch_size, plan.block_size
    count = sampler.moments if plan.bound.is_soft else sampler.counts

    def call(batches: int) -> float:
        sizes = [min(block, batches * batch - start) for start in range(0, batches * batch, block)]
        started = time.perf_counter()
        count(image, index, "estimation", list(enumerate(sizes)))
        return time.perf_counter() - started

    # The first may be slow
    call(1)
    batches = int(min(MOST_BATCHES_TIMED, max(1.0, seconds / 4 / call(1))))
    elapsed, calls = 0.0, 0
    while elapsed < seconds or not calls:
        elapsed, calls = elapsed + call(batches), calls + 1
    return calls * batches * batch / elapsed


def _wanted(
    sampler: Sampler, split: ImageSplit, selected: Selected, plan: SamplingPlan, seconds: float
) -> Floats:
    """Return the estimation draws of as many spread-out images as `seconds` allow."""
    if plan.is_same_for_all:
        return np.array([float(plan.n)])
    order = torch.randperm(len(selected.indices), generator=torch.Generator().manual_seed(0))
    wanted: list[float] = []
    started = time.perf_counter()
    for position in order.tolist():
        if wanted and time.perf_counter() - started > seconds:
            break
        index, label = int(selected.indices[position]), int(selected.labels[position])
        image, pilot = split.images([index])[0], [(0, plan.n0)]
        values: NDArray[np.int64] | Floats
        if plan.bound.is_soft:
            values = sampler.moments(image, index, "selection", pilot)[1][0]
        else:
            values = sampler.counts(image, index, "selection", pilot)[0]
        top = int(values.argmax())
        blocks = plan.likely_blocks(label, top, float(values[top]))
        wanted.append(min(plan.n, blocks * plan.block_size))
    return np.array(wanted, dtype=np.float64)
