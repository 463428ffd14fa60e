"""One optimiser step: noise, one forward pass over all draws, per-image losses, backward."""

# Shapes: B images, M noise draws per image, K classes, C H W an image.
from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rsray.core.hardware import HALF_TYPES
from rsray.objectives import Objective, Step
from rsray.training.batches.randomness import draw_batch_noise, generator_from_slot
from rsray.training.memory import bytes_per_image


@dataclass(frozen=True)
class Batch:
    """A worker's share of a global batch: images uint8 [B, C, H, W], labels [B], on the device."""

    images_BCHW: Tensor
    labels_B: Tensor
    # Their places in the global batch.
    slots: range
    global_size: int
    # The seed, the epoch and the step.
    key: tuple[int, int, int]
    # Of a teacher's, where the objective has one [B, K].
    targets_BK: Tensor | None = None


class AutocastNetwork:
    """The classifier as the objectives call it: autocast to the precision, channels-last input."""

    def __init__(self, module: nn.Module, precision: str) -> None:
        """Wrap a module (or its data-parallel wrapper)."""
        self.module, self.precision = module, precision

    def __call__(self, images_NCHW: Tensor) -> Tensor:
        """Return logits [N, K]."""
        half = HALF_TYPES.get(self.precision)
        device_type = images_NCHW.device.type
        with nullcontext() if half is None else torch.autocast(device_type, half):
            logits: Tensor = self.module(images_NCHW)
        return logits


class EpochSums:
    """Sums of an epoch's figures on the device: nothing is transferred until `read`."""

    def __init__(self, device: torch.device, before: Tensor | None = None) -> None:
        """Start at zero, or with the totals [5] of the epoch so far."""
        self._sums = torch.zeros(3, dtype=torch.float64, device=device)
        self._images = self._draws = 0
        self._has_logits = True
        if before is not None:
            self._sums += before[:3].to(device)
            self._images, self._draws = map(int, before[3:].tolist())

    def add(
        self, classification_B: Tensor, robustness_B: Tensor, logits_BMK: Tensor, labels_B: Tensor
    ) -> None:
        """Add a group of images."""
        self._has_logits = logits_BMK.shape[-1] > 0
        hits = (
            (logits_BMK.argmax(-1) == labels_B[:, None]).sum()
            if self._has_logits
            else classification_B.new_zeros(())
        )
        self._images += len(labels_B)
        self._draws += logits_BMK.shape[0] * logits_BMK.shape[1]
        self._sums += torch.stack(
            [
                classification_B.detach().sum().double(),
                robustness_B.detach().sum().double(),
                hits.double(),
            ]
        )

    def totals(self, reduce: Callable[[Tensor], Tensor] = lambda sums: sums) -> Tensor:
        """Return the sums and counts so far [5] (of all workers, with `reduce` a sum over them)."""
        counts = self._sums.new_tensor([self._images, self._draws])
        return reduce(torch.cat((self._sums, counts)))

    def read(self, reduce: Callable[[Tensor], Tensor] = lambda sums: sums) -> dict[str, Any]:
        """Return the means so far (of all workers, with `reduce` a sum over them).

        The noisy accuracy is None where no classifier takes part.
        """
        classification, robustness, hits, images, draws = self.totals(reduce).tolist()
        return {
            "loss": (classification + robustness) / max(images, 1),
            "classification_loss": classification / max(images, 1),
            "robustness_loss": robustness / max(images, 1),
            "noisy_accuracy": hits / max(draws, 1) if self._has_logits else None,
            "draws": draws,
        }


class MemoryShortError(RuntimeError):
    """A worker among several has no memory for its images at once: all begin anew with groups."""

    def __init__(self, group_size: int) -> None:
        """Name how many images may fit."""
        super().__init__(group_size)
        self.group_size = group_size

    def __str__(self) -> str:
        """Return what is tried next."""
        return f"the device has no memory for more than {self.group_size} images at once"


class Stepper:
    """Makes optimiser steps; splits a batch into groups of images when memory is short.

    A group holds all draws of its images, so the gradient is that of the whole batch, exactly but
    for batch-norm statistics.
    """

    def __init__(
        self,
        network: AutocastNetwork,
        optimiser: torch.optim.Optimizer,
        *,
        scaler: torch.amp.GradScaler | None = None,
        world: int = 1,
    ) -> None:
        """Make a stepper for this worker's network; `scaler` keeps float16 gradients above 0."""
        self.network, self.optimiser, self.world = network, optimiser, world
        self.scaler = scaler or torch.amp.GradScaler(enabled=False)
        # Images per forward pass; None is the whole batch.
        self.group_size: int | None = None

    def step(
        self,
        batch: Batch,
        objective: Objective,
        sums: EpochSums,
        companion: nn.Module | None = None,
    ) -> None:
        """Make one step; halves the group on out-of-memory and starts the step again.

        One worker of several cannot start again alone: the others wait for its gradients. It
        raises MemoryShortError.
        """
        while True:
            self.optimiser.zero_grad(set_to_none=True)
            try:
                steps = self._backward(batch, objective, companion)
                break
            except torch.OutOfMemoryError:
                size = self.group_size or len(batch.slots)
                if size == 1:
                    raise
                self.group_size = (size + 1) // 2
                if self.world > 1:
                    raise MemoryShortError(self.group_size) from None
            # After the except: what raised still held the memory there.
            torch.cuda.empty_cache()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        for figures in steps:
            sums.add(*figures)

    def _backward(
        self, batch: Batch, objective: Objective, companion: nn.Module | None
    ) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        size = self.group_size or len(batch.slots)
        no_sync = getattr(self.network.module, "no_sync", nullcontext)
        figures = []
        for start in range(0, len(batch.slots), size):
            group = slice(start, min(start + size, len(batch.slots)))
            is_last = group.stop == len(batch.slots)
            with nullcontext() if is_last else no_sync():
                step = _forward(self.network, batch, group, objective, companion)
                # Data-parallel training averages over workers: scale so that the result is the sum
                # over all images of the global batch divided by their number, however it was split.
                loss = step.terms.total_B.sum() * (self.world / batch.global_size)
                self.scaler.scale(loss).backward()
            losses = step.terms.classification_B.detach(), step.terms.robustness_B.detach()
            figures.append((*losses, step.logits_BMK.detach(), batch.labels_B[group]))
            # Nothing of this group is held while the next one is computed.
            del step, loss
        return figures

    def bytes_per_image(
        self,
        model: nn.Module,
        batch: Batch,
        objective: Objective,
        companion: nn.Module | None = None,
    ) -> float:
        """Return how much memory each image of a model's step takes; nothing of the run changes."""
        beside = copy.deepcopy(companion)

        def losses_of(module: nn.Module, count: int) -> Tensor:
            network = AutocastNetwork(module, self.network.precision)
            return _forward(network, batch, slice(0, count), objective, beside).terms.total_B

        return bytes_per_image(model, losses_of)


def _forward(
    network: AutocastNetwork,
    batch: Batch,
    group: slice,
    objective: Objective,
    companion: nn.Module | None,
) -> Step:
    """Return what an objective makes of a group of a batch's images, with their own noise."""
    images = batch.images_BCHW[group].float().div_(255)
    slots, shape = batch.slots[group], tuple(images.shape[1:])
    noise = draw_batch_noise(
        slots, objective.num_draws, shape, objective.sigma, batch.key, images.device
    )
    draws = generator_from_slot(slots, *batch.key, "objective")
    of_teacher = {} if batch.targets_BK is None else {"targets_BK": batch.targets_BK[group]}
    return objective.step(
        network,
        images,
        batch.labels_B[group],
        noise,
        companion=companion,
        generator=draws,
        **of_teacher,
    )
