"""The counting engine: noisy copies of an image in, class counts of every block out."""

# Shapes: B draws in a batch, D draws of a work item, S draws of a noise slab, C H W an image,
# T blocks, K classes.
from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rsray.certification.engine.evaluation import EvaluatedNetwork, Evaluation
from rsray.core import NOISES
from rsray.core.gpus import send
from rsray.core.noise import Affine, Stage, Stream, Streams


class BadLogitsError(ArithmeticError):
    """The network returned logits that are not numbers."""


# Soft probabilities are kept in this many steps: all that float32 tells near 1
STEPS = 2.0**24


class ShortOfMemoryError(RuntimeError):
    """A batch that fitted when the evaluation was chosen fits no more.

    A smaller batch would be another evaluation than the one that the run's other counts were made
    with, so it is not taken in the middle of a run.
    """


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
        noise: str = "grid",
        inverse_temperature: float = 1.0,
    ) -> None:
        """Prepare a copy of `model`, which is on the evaluation's device; compiles if it says so.

        Raises CompileError when the evaluation is compiled and this machine cannot compile.
        """
        self.evaluation, self.image_shape, self.num_classes = evaluation, image_shape, num_classes
        self.seed, self._noise = seed, NOISES[noise].of(sigma)
        self.inverse_temperature = inverse_temperature
        self._network = EvaluatedNetwork(model, evaluation, image_shape)
        self._device = self._network.device
        self._normalise = Affine.of(
            self._network.mean_C, self._network.std_C, image_shape, self._device
        )

    @property
    def total_variation(self) -> float:
        """How far the noise of one draw may be from the exact Gaussian."""
        return float(self._noise.total_variation(self._noise.sigma, self.image_shape))

    @torch.no_grad()
    def counts(
        self,
        image_CHW: NDArray[np.uint8],
        index: int,
        stage: Stage,
        blocks: Sequence[tuple[int, int]],
        *,
        selection_draws: int = 0,
    ) -> NDArray[np.int64]:
        """Return the class counts [T, K] of the T blocks, given as (block, draws).

        With `selection_draws` a row of so many draws of the selection comes before them: alone
        they would take a batch of their own. One transfer from the device per call. Raises
        BadLogitsError when a logit is NaN, ShortOfMemoryError when the device runs out of memory.
        """
        streams = self._streams(index, stage, blocks, selection_draws)
        draws = [draws for _, draws in streams]
        with self._memory_watched():
            classes_D, is_bad = self._classes(image_CHW, streams)
            counts_K1 = self._count_by_block(classes_D, draws, is_bad)
        if counts_K1[-1]:
            raise BadLogitsError(f"the network returned NaN for image {index}")
        return counts_K1[:-1].reshape(len(draws), self.num_classes)

    @torch.no_grad()
    def classes(
        self,
        image_CHW: NDArray[np.uint8],
        index: int,
        stage: Stage,
        blocks: Sequence[tuple[int, int]],
    ) -> NDArray[np.int64]:
        """Return the class of every draw [D] of the blocks, in their order; raises as `counts`."""
        with self._memory_watched():
            classes_D, is_bad = self._classes(image_CHW, self._streams(index, stage, blocks))
        if is_bad:
            raise BadLogitsError(f"the network returned NaN for image {index}")
        return classes_D.cpu().numpy()

    def _streams(
        self,
        index: int,
        stage: Stage,
        blocks: Sequence[tuple[int, int]],
        selection_draws: int = 0,
    ) -> Streams:
        """Return the stream and the number of draws of each block, the selection's first."""
        first = Stream(self.seed, index, "selection", 0), selection_draws
        rest = [(Stream(self.seed, index, stage, block), draws) for block, draws in blocks]
        return [first, *rest] if selection_draws else rest

    def _classes(self, image_CHW: NDArray[np.uint8], streams: Streams) -> tuple[Tensor, Tensor]:
        """Return the class of every draw [D], and whether any logit was NaN."""
        total, batch = sum(draws for _, draws in streams), self.evaluation.batch_size
        rows = -(-total // batch) * batch
        top_D = torch.empty(rows, device=self._device)
        classes_D = torch.empty(rows, dtype=torch.int64, device=self._device)
        for start, logits_BK in self._batches(image_CHW, streams):
            here = slice(start, start + batch)
            torch.max(logits_BK, 1, out=(top_D[here], classes_D[here]))
        # The largest logit is NaN if any is.
        return classes_D[:total], torch.isnan(top_D[:total]).any()

    @torch.no_grad()
    def moments(
        self,
        image_CHW: NDArray[np.uint8],
        index: int,
        stage: Stage,
        blocks: Sequence[tuple[int, int]],
        *,
        selection_draws: int = 0,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """Return counts, sums and sums of squares of soft probabilities, each [T, K].

        The probabilities are softmax(inverse_temperature * logits) in float64. Each is rounded
        down, and each square up, to a multiple of 2^-24: sound for lower bounds, those of two
        classes are never above 1 together, and sums of up to 2^29 draws are then exact in float64,
        so that no split or order can change a bit. Takes `selection_draws` and raises as `counts`
        does.
        """
        streams = self._streams(index, stage, blocks, selection_draws)
        draws = [draws for _, draws in streams]
        size, batch = (len(draws), self.num_classes), self.evaluation.batch_size
        with self._memory_watched():
            blocks_D = self._block_of_draws(draws)
            sums = torch.zeros(size, dtype=torch.float64, device=self._device)
            squares, counts = torch.zeros_like(sums), torch.zeros_like(sums, dtype=torch.int64)
            bad = torch.zeros((), device=self._device).bool()
            for start, logits_BK in self._batches(image_CHW, streams):
                block_B = blocks_D[start : start + batch]
                logits_BK = logits_BK[: len(block_B)]
                bad |= torch.isnan(logits_BK).any()
                # An infinite logit is as large as a logit can be: of inf alone softmax makes NaN.
                finite_BK = (self.inverse_temperature * logits_BK).nan_to_num(0.0)
                soft_BK = (finite_BK.double().softmax(1) * STEPS).floor_().div_(STEPS)
                sums.index_add_(0, block_B, soft_BK)
                squares.index_add_(0, block_B, soft_BK.square_().mul_(STEPS).ceil_().div_(STEPS))
                cell_B = block_B * self.num_classes + logits_BK.argmax(1)
                counts.view(-1).index_add_(0, cell_B, torch.ones_like(cell_B))
        if bad:
            raise BadLogitsError(f"the network returned NaN for image {index}")
        return counts.cpu().numpy(), sums.cpu().numpy(), squares.cpu().numpy()

    @contextlib.contextmanager
    def _memory_watched(self) -> Iterator[None]:
        """Raise ShortOfMemoryError when the device runs out of memory in the block."""
        try:
            yield
        except torch.OutOfMemoryError as problem:
            raise ShortOfMemoryError(
                f"{self._device} ran out of memory at {self.evaluation.batch_size} draws a batch, "
                "the batch in certify.yaml that all counts of the run are made with: free memory, "
                "or take fewer actors per GPU, and run the same command again"
            ) from problem

    def _batches(
        self, image_CHW: NDArray[np.uint8], streams: Streams
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield (first draw, logits [B, K]) of batch after batch; use before advancing.

        The last batch keeps its full shape: its rows beyond the last draw mean nothing.
        """
        batch = self.evaluation.batch_size
        done = filled = 0
        image_HWC = send(torch.from_numpy(image_CHW), self._device).permute(1, 2, 0)
        for part_SCHW in self._noise.noisy_slabs(image_HWC, streams, self._normalise):
            taken, size = 0, len(part_SCHW)
            while taken < size:
                room = min(batch - filled, size - taken)
                target = self._network.buffer_BCHW[filled : filled + room]
                target.copy_(part_SCHW[taken : taken + room])
                filled, taken = filled + room, taken + room
                if filled == batch:
                    yield done, self._network.logits()
                    done, filled = done + batch, 0
        if filled:
            # Nothing of an earlier image may stay: a model might raise for it once more.
            self._network.buffer_BCHW[filled:] = self._network.buffer_BCHW[:1]
            yield done, self._network.logits()

    def _block_of_draws(self, draws: list[int]) -> Tensor:
        """Return the place [D] of each draw's block."""
        places = torch.arange(len(draws), device=self._device)
        lengths = send(torch.tensor(draws), self._device)
        return torch.repeat_interleave(places, lengths, output_size=sum(draws))

    def _count_by_block(
        self, classes_D: Tensor, draws: list[int], is_bad: Tensor
    ) -> NDArray[np.int64]:
        """Return the counts of block after block, and a last one that says if a logit was NaN."""
        size = len(draws) * self.num_classes
        if len(draws) > 1:
            classes_D = classes_D + self._block_of_draws(draws) * self.num_classes
        counts = torch.bincount(classes_D, minlength=size)
        return torch.cat([counts, is_bad.long()[None]]).cpu().numpy()
