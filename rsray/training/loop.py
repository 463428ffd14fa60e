"""A training run from where it is to its weights, in one process of one or several workers."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from rsray import models
from rsray.core.compiling import compile_settings
from rsray.core.gpus import send
from rsray.core.hardware import free_memory
from rsray.errors import UserError
from rsray.objectives import Objective
from rsray.training.batches.augment import NUMBERS_PER_IMAGE, augment_images
from rsray.training.batches.randomness import draw_batch_noise, draw_uniforms, key_seed, seed_torch
from rsray.training.batches.schedule import BatchShare
from rsray.training.memory import group_that_fits
from rsray.training.opened_run import EpochPart, OpenedRun
from rsray.training.run_folder.checkpoint import Position
from rsray.training.run_folder.run import WEIGHTS_FILE, record_group_size, weights_record
from rsray.training.run_folder.writer import RunWriter
from rsray.training.step import Batch, EpochSums, MemoryShortError
from rsray.training.validation import Projection, count_right, project_acr

# A network with a weight beyond this computes nothing but overflow.
LARGEST_WEIGHT = 1e6
# Of a group of images: 2 to the power of this is more than any batch.
MOST_EXPONENT = 32


class DivergedError(UserError):
    """Training produced a loss that is not a number."""


@dataclass(frozen=True)
class Progress:
    """Where a run is: called after each step with figures only when they are cheap to have."""

    epoch: int
    epochs: int
    step: int
    steps: int
    # After the last step of an epoch: its loss, accuracy and speed.
    epoch_figures: dict[str, Any] | None = None
    # Within an epoch: the noisy images that all workers have trained on in it since this start.
    draws: int = 0
    # Before an epoch: the images are being weighed, and steps are images.
    is_weighing: bool = False


@dataclass
class Training(OpenedRun):
    """One worker's training run."""

    on_progress: Callable[[Progress], None] = lambda progress: None

    def run_epochs(
        self, on_epoch: Callable[[dict[str, Any]], bool | None] = lambda figures: None
    ) -> None:
        """Train the epochs that remain; `on_epoch` gets their figures, and stops with True."""
        run = self.run if self.team.rank == 0 else None
        with nullcontext() if run is None else RunWriter(run, self.epoch) as self.writer:
            while self.epoch < self.config.epochs:
                compiling = compile_settings(self.device, is_frozen=False)
                with compiling if self.is_compiled else nullcontext():
                    figures = self._train_epoch()
                self._check_converging(figures)
                self.epoch, self.part = self.epoch + 1, EpochPart()
                self._save(Position(self.epoch), figures=figures)
                if on_epoch(figures):
                    break
        if run is None:
            return
        record = weights_record(run, self.config, self.split)
        metadata = {"rsray": json.dumps(record, default=str)}
        run.write(WEIGHTS_FILE, models.weights_bytes(self.model, metadata))

    def _save(
        self, position: Position, figures: dict[str, Any] | None = None, **inside: Any
    ) -> None:
        """Begin to write a checkpoint, and what else is known; training goes on meanwhile."""
        if self.clock is not None:
            self.clock.restart()
        if self.writer is not None:
            self.writer.save(position, {**self._checkpoint_state(), **inside}, figures)

    def _save_if_due(self, step: int, sums: EpochSums, started: float) -> None:
        """Write a checkpoint inside an epoch, after so many steps, where it is time for one."""
        if self.clock is not None and self.clock.is_due():
            self._share_buffers()
            seconds, totals = time.perf_counter() - started, sums.totals(self.team.sum_over)
            self._save(Position(self.epoch, step), totals=totals, seconds=seconds)

    def _check_converging(self, figures: dict[str, Any]) -> None:
        """Raise DivergedError when the loss, or what the last step left of the weights, is lost."""
        weights = [*self.model.parameters()]
        if self.companion is not None:
            weights += self.companion.parameters()
        sizes = torch.stack([weight.detach().abs().max().float() for weight in weights])
        # This is NaN where a weight is NaN, unlike Python's max.
        largest = float(sizes.max())
        if not math.isfinite(figures["loss"]) or not largest < LARGEST_WEIGHT:
            raise DivergedError(
                f"the loss became {figures['loss']:g} and the largest weight {largest:g} in epoch "
                f"{figures['epoch']}: lower lr or trade_off"
            )

    def _train_epoch(self) -> dict[str, Any]:
        config, epoch = self.config, self.epoch
        if not self.part.first_step:
            self._weigh_images()
        objective = self.objective.at_epoch(epoch, config.lr_drops)
        lr = float(self.optimiser.param_groups[0]["lr"])
        sums = EpochSums(self.device, self.part.totals)
        started = time.perf_counter() - self.part.seconds
        self.network.module.train()
        self._make_steps(objective, sums, started)
        self._share_buffers()
        figures = sums.read(self.team.sum_over)
        if not figures["draws"]:
            raise UserError(
                f"there is nothing to train on: no batch of {len(self.held_in)} images has one for "
                f"each of {self.team.world} workers"
            )
        for schedule in self.schedules.values():
            schedule.step()
        seconds = time.perf_counter() - started
        figures = {
            "epoch": epoch,
            **{key: figures[key] for key in ("loss", "classification_loss", "robustness_loss")},
            "lr": lr,
            "noisy_accuracy": figures["noisy_accuracy"],
            "draws_per_second": figures["draws"] / seconds,
            "seconds": seconds,
            **self._dropped(),
        }
        self.on_progress(Progress(epoch, config.epochs, 1, 1, figures))
        return figures

    def _weigh_images(self) -> None:
        """Let the objective say how often each image is seen in the epoch that begins."""
        before_N = self.schedule.weights_N
        weights_N = self.objective.image_weights(self.epoch, before_N, self._count_right)
        self.schedule = replace(self.schedule, weights_N=weights_N)

    def _dropped(self) -> dict[str, int]:
        """Return how many images the objective leaves out, and how many classes as a whole."""
        if self.schedule.weights_N is None:
            return {}
        is_kept_N = (self.schedule.weights_N > 0).cpu().numpy()
        labels_N = self.split.labels[self.held_in.indices]
        classes = len(set(labels_N.tolist())) - len(set(labels_N[is_kept_N].tolist()))
        return {"images_dropped": int((~is_kept_N).sum()), "classes_dropped": classes}

    def _count_right(self, num_draws: int) -> Tensor:
        """Return on how many noisy copies of each image [N] the network is right, for all workers.

        Each worker looks at its share of the images.
        """
        images, labels = self.held_in.tensors()
        right_N = torch.zeros_like(labels)
        mine = slice(self.team.rank, None, self.team.world)
        right_N[mine] = count_right(
            self.model,
            images[mine],
            labels[mine],
            sigma=self.config.sigma,
            precision=self.precision,
            seed=key_seed(self.config.seed, "weights", self.epoch, num_draws, self.team.rank),
            num_draws=num_draws,
            on_images=lambda done, total: self.on_progress(
                Progress(self.epoch, self.config.epochs, done, total, is_weighing=True)
            ),
        )
        return self.team.sum_over(right_N)

    @torch.no_grad()
    def _share_buffers(self) -> None:
        """Give every worker the mean of what the workers' batch norms measured."""
        if self.team.world > 1:
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    for measured in (module.running_mean, module.running_var):
                        if measured is not None:
                            measured.copy_(self.team.sum_over(measured.clone()) / self.team.world)

    def _make_steps(self, objective: Objective, sums: EpochSums, started: float = 0.0) -> None:
        config, first, draws = self.config, self.part.first_step, 0
        shares = self.schedule.shares(self.epoch)
        pairs = self.feed.batches(self.schedule, self.epoch, first)
        for share, (images, labels) in zip(shares[first:], pairs, strict=True):
            # For dropout and the like, in users' models.
            of_worker = [share.slots.start] if share.slots.start else []
            seed_torch(self.device, *share.key, "torch", *of_worker)
            images = self._augment(images, share)
            targets = None if self.targets_NK is None else self.targets_NK[share.positions_B]
            if targets is not None:
                targets = send(targets, self.device)
            batch = Batch(images, labels, share.slots, share.global_size, share.key, targets)
            if self.owes_fit:
                self._fit_group(batch, objective)
            try:
                self.stepper.step(batch, objective, sums, self.companion)
            except MemoryShortError as short:
                if self.run is not None:
                    record_group_size(self.run, short.group_size)
                raise
            step = share.key[2]
            self._companion_step(objective, batch, self.epoch * len(shares) + step)
            draws += share.global_size * objective.num_draws
            self.on_progress(
                Progress(self.epoch, config.epochs, step + 1, len(shares), draws=draws)
            )
            if step + 1 < len(shares):
                self._save_if_due(step + 1, sums, started)

    def _fit_group(self, batch: Batch, objective: Objective) -> None:
        """Take no more images at once than every worker's machine has memory for."""
        self.owes_fit = False
        free, size = free_memory(), None
        if free is not None:
            needed = self.stepper.bytes_per_image(self.model, batch, objective, self.companion)
            size = group_that_fits(needed, len(batch.slots), free / self.team.workers_here)
        # A vote for a power of two; the last one is for all images at once.
        votes = torch.zeros(MOST_EXPONENT + 1)
        votes[MOST_EXPONENT if size is None else int(math.log2(size))] = 1
        smallest = int(self.team.sum_over(votes).nonzero()[0])
        if smallest < MOST_EXPONENT:
            self.stepper.group_size = 2**smallest
            if self.run is not None and self.team.rank == 0:
                record_group_size(self.run, self.stepper.group_size)

    def _augment(self, images: Tensor, share: BatchShare) -> Tensor:
        numbers = NUMBERS_PER_IMAGE.get(self.augmentation)
        if numbers is None:
            return images
        draws_BN = draw_uniforms(share.slots, share.global_size, numbers, *share.key, "augment")
        return augment_images(images, self.augmentation, draws_BN)

    def _companion_step(self, objective: Objective, batch: Batch, step: int) -> None:
        if self.companion is None or not objective.companion_due(step):
            return
        images = batch.images_BCHW.float().div_(255)
        calls = itertools.count()

        def noise(draws: int) -> Tensor:
            key, shape = (*batch.key, "companion", next(calls)), tuple(images.shape[1:])
            return draw_batch_noise(batch.slots, draws, shape, objective.sigma, key, images.device)

        optimiser = self.optimisers["companion_optimiser"]
        optimiser.zero_grad(set_to_none=True)
        objective.companion_loss(
            self.network, self.companion, images, batch.labels_B, noise
        ).backward()
        fraction = len(batch.slots) / batch.global_size
        # The gradient is summed, so that every worker makes the same step.
        for weight in self.companion.parameters():
            if weight.grad is not None:
                weight.grad = self.team.sum_over(weight.grad * fraction)
        optimiser.step()

    def project_acr(self, num_draws: int) -> Projection:
        """Return the projected ACR on the validation split (see validation.py)."""
        if not len(self.held_out):
            raise UserError("validation is 0: there are no held-out images to project ACR on")
        images, labels = self.held_out.tensors()
        return project_acr(
            self.model,
            images,
            labels,
            sigma=self.config.sigma,
            precision=self.precision,
            seed=self.config.seed,
            num_draws=num_draws,
        )
