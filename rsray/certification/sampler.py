"""The counting engine: noisy copies of an image in, class counts of every block out."""

# Shapes: B draws in a batch, D draws of a work item, S draws of a noise slab, C H W an image,
# K classes.
from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rsray.certification.evaluation import EvaluatedNetwork, Evaluation
from rsray.core.noise import Stage, Stream, slabs


class BadLogitsError(ArithmeticError):
    """The network returned logits that are not numbers."""


class Sampler:
    """Counts the classes of noisy copies of images, one work item at a time.

    The counts of a block depend on the model, the evaluation, sigma, the image and the block's
    stream (seed, index, stage, block): not on which blocks are counted together, nor where.
    """

    def __init__(
        self,
        model: nn.Module,
        evaluation: Evaluation,
        *,
        image_shape: tuple[int, int, int],
        num_classes: int,
        sigma: float,
        seed: int,
    ) -> None:
        """Prepare a copy of `model`, which is on the evaluation's device."""
        self.evaluation, self.image_shape, self.num_classes = evaluation, image_shape, num_classes
        self.sigma, self.seed = sigma, seed
        self._network = EvaluatedNetwork(model, evaluation, image_shape)
        self._device = self._network.device
        self._scale = self._normalised_scale()

    def _normalised_scale(self) -> Tensor | None:
        std_C = self._network.std_C
        return None if std_C is None else (1.0 / std_C).to(self._device)[:, None, None]

    def _centre(self, image_CHW: NDArray[np.uint8]) -> Tensor:
        """Return the clean image as the network sees it: in [0, 1], then normalised."""
        image = torch.from_numpy(image_CHW).to(self._device).float().div_(255)
        if self._network.mean_C is not None and self._network.std_C is not None:
            mean, std = self._network.mean_C, self._network.std_C
            image = (image - mean.to(self._device)[:, None, None]) / std.to(self._device)[
                :, None, None
            ]
        return image

    @torch.inference_mode()
    def counts(
        self,
        image_CHW: NDArray[np.uint8],
        index: int,
        stage: Stage,
        blocks: Sequence[tuple[int, int]],
    ) -> NDArray[np.int64]:
        """Return the class counts [len(blocks), K] of blocks given as (block, draws).

        One transfer from the device per call. Raises BadLogitsError when a logit is NaN.
        """
        draws = [draws for _, draws in blocks]
        total, batch = sum(draws), self.evaluation.batch_size
        classes_D = torch.empty(-(-total // batch) * batch, dtype=torch.int64, device=self._device)
        checksum = torch.zeros((), device=self._device)
        filled = done = 0
        centre = self._centre(image_CHW)
        for part_SCHW in self._parts(index, stage, blocks):
            taken = 0
            while taken < len(part_SCHW):
                room = min(batch - filled, len(part_SCHW) - taken)
                self._put(centre, part_SCHW[taken : taken + room], filled)
                filled, taken = filled + room, taken + room
                if filled == batch:
                    checksum += self._classify(classes_D[done : done + batch])
                    done, filled = done + batch, 0
        if filled:  # the last batch keeps its full shape: its other rows are what was there before
            checksum += self._classify(classes_D[done : done + batch])
        counts = self._count_by_block(classes_D[:total], draws)
        if torch.isnan(checksum):
            raise BadLogitsError(f"the network returned NaN for image {index}")
        return counts

    def _parts(
        self, index: int, stage: Stage, blocks: Sequence[tuple[int, int]]
    ) -> Iterator[Tensor]:
        for block, draws in blocks:
            stream = Stream(self.seed, index, stage, block)
            yield from slabs(stream, draws, self.image_shape, self.sigma, self._device)

    def _put(self, centre_CHW: Tensor, noise_SCHW: Tensor, at: int) -> None:
        """Write image + noise (normalised) into rows of the input buffer."""
        target = self._network.buffer_BCHW[at : at + len(noise_SCHW)]
        if self._scale is not None:
            noise_SCHW.mul_(self._scale)
        target.copy_(noise_SCHW.add_(centre_CHW))

    def _classify(self, classes_B: Tensor) -> Tensor:
        """Store the classes of the buffered batch; returns a sum that is NaN if a logit was."""
        top_B, index_B = self._network.logits().max(1)
        classes_B.copy_(index_B)
        return top_B.sum()

    def _count_by_block(self, classes_D: Tensor, draws: list[int]) -> NDArray[np.int64]:
        lengths = torch.tensor(draws, device=self._device)
        block_D = torch.repeat_interleave(
            torch.arange(len(draws), device=self._device), lengths, output_size=len(classes_D)
        )
        size = len(draws) * self.num_classes
        flat = torch.bincount(block_D * self.num_classes + classes_D, minlength=size)
        return flat.view(len(draws), self.num_classes).cpu().numpy()
