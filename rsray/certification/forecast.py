"""What a certification run will cost, from a few seconds of measuring on the hardware at hand."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from rsray.certification.demand import Demand
from rsray.certification.evaluation import Evaluation
from rsray.certification.sampler import Sampler
from rsray.certification.store import Selected
from rsray.config import CertifyConfig
from rsray.data import ImageSplit

START_SECONDS = 15.0  # of an actor: processes, imports, the network


@dataclass(frozen=True)
class Forecast:
    """The draws of a run and the speed of one actor."""

    images: int
    draws_per_image: float  # the mean over the sampled images
    draws_per_image_error: float  # its standard error; 0 when every image gets the same
    sampled_images: int
    draws_per_second: float  # of one actor of the kind that was measured

    @property
    def draws(self) -> float:
        """The expected draws of the run."""
        return self.images * self.draws_per_image

    def actor_hours(self) -> float:
        """Return the hours of counting of all actors together."""
        return self.draws / self.draws_per_second / 3600

    def hours(self, actors: int) -> float:
        """Return the expected wall-clock hours with that many actors."""
        return self.actor_hours() / actors + START_SECONDS / 3600

    def dollars(self, actors: int, price: float) -> float:
        """Return the cost at `price` dollars per actor and hour, start-up included."""
        return self.hours(actors) * actors * price


def forecast(
    model: nn.Module,
    split: ImageSplit,
    selected: Selected,
    config: CertifyConfig,
    demand: Demand,
    evaluation: Evaluation,
    *,
    seconds: float,
) -> Forecast:
    """Return the forecast of a run, measuring for about `seconds`.

    One image shows the speed. When the sampling decides for each image how many draws it gets,
    the selection draws of images spread over the run say how many, as they will in the run.
    Radii that are asked with at-radius stop earlier than this can know: the forecast is the most.
    """
    sampler = Sampler(
        model,
        evaluation,
        image_shape=split.image_shape,
        num_classes=split.num_classes,
        sigma=config.sigma,
        seed=config.seed,
    )
    speed = _speed(sampler, split, selected, config.block_size, seconds / 2)
    wanted = _wanted(sampler, split, selected, config, demand, seconds / 2)
    spread = float(wanted.std(ddof=1) / np.sqrt(len(wanted))) if len(wanted) > 1 else 0.0
    if demand.sampling == "fixed":
        wanted, spread = np.array([float(config.n)]), 0.0
    return Forecast(
        images=len(selected.indices),
        draws_per_image=config.n0 + float(wanted.mean()),
        draws_per_image_error=spread,
        sampled_images=len(wanted),
        draws_per_second=speed,
    )


def _speed(
    sampler: Sampler, split: ImageSplit, selected: Selected, block_size: int, seconds: float
) -> float:
    index = int(selected.indices[0])
    image = split.images([index])[0]
    batch = sampler.evaluation.batch_size
    sampler.counts(image, index, "estimation", [(0, batch)])
    draws, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds or not draws:
        size = min(block_size, 4 * batch)
        sampler.counts(image, index, "estimation", [(0, size)])
        draws += size
    return draws / elapsed


def _wanted(
    sampler: Sampler,
    split: ImageSplit,
    selected: Selected,
    config: CertifyConfig,
    demand: Demand,
    seconds: float,
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the estimation draws of as many spread-out images as `seconds` allow."""
    order = torch.randperm(len(selected.indices), generator=torch.Generator().manual_seed(0))
    wanted: list[float] = []
    started = time.perf_counter()
    for position in order.tolist():
        if wanted and time.perf_counter() - started > seconds:
            break
        index, label = int(selected.indices[position]), int(selected.labels[position])
        counts = sampler.counts(split.images([index])[0], index, "selection", [(0, config.n0)])[0]
        top = int(counts.argmax())
        blocks = demand.blocks(label, top, float(counts[top]))
        wanted.append(float(sum(map(demand.draws.block_draws, range(blocks)))))
        if demand.sampling == "fixed":
            break
    return np.array(wanted)
