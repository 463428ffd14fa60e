"""Exact noise on the grid of the image, for certificates that hold in floating point.

An image is integers 0..255, a pixel p in [0, 1] times 255. Its noise is the integer
t = round(255 eta) with eta ~ N(0, sigma^2), added to the image before anything becomes floating
point. Because x + round(eta) = round(x + eta) on the grid, what is certified is the network behind
a rounding to the grid, one fixed function on R^d smoothed by the exact Gaussian: Cohen et al.'s
theorem holds for it as it stands, in any precision downstream and for every real perturbation of
the image. README.md, section 7, has the argument and the error that is left.
"""

# Shapes: S draws in a slab, C H W an image, M thresholds.
from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import mpmath
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsray.core.gpus import send
from rsray.core.noise import (
    LEVELS,
    STAGES,
    Affine,
    Stream,
    Streams,
    slab_draws,
    slabs_of_streams,
)
from rsray.errors import UserError

# Up to it both the values and the codes of undecided cells fit into 16 bits; no published sigma is
# above 2.
LARGEST_SIGMA = 5.0
# P(|eta| > 9.3 sigma) is below 2^-65: no threshold lies beyond.
_REACH = 9.3
_WORD, _CELLS, _CELL = 2**64, 2**16, 2**48
_FIRST_CODE = -(2**15)


@dataclass(frozen=True)
class GridNoise:
    """N(0, sigma^2) rounded to the grid 1/255: P(t <= i) = Phi((i + 1/2) / (255 sigma))."""

    sigma: float
    # The smallest value that is drawn.
    lowest: int
    # round(2^64 P(t <= lowest + m)) of all m for which that is neither 0 nor 2^64 [M].
    thresholds: NDArray[np.uint64]
    # Of each cell of 2^48 uniform numbers [2^16]: the value, where all of it has the same, or
    # _FIRST_CODE + u for the u-th undecided cell, which a threshold divides.
    table: NDArray[np.int16]
    # Of the undecided cells [U]: the first number, its value, and how far into the cell the only
    # threshold lies; 2^48 if there are more.
    starts: NDArray[np.uint64]
    first_values: NDArray[np.int16]
    only_thresholds: NDArray[np.uint64]
    # By device, once they are there.
    moved_thresholds: dict[torch.device, Tensor] = field(default_factory=dict, repr=False)

    recorded_name = "grid"

    @classmethod
    def of(cls, sigma: float) -> GridNoise:
        """Return the noise of a standard deviation, in pixels of [0, 1]; made once per process."""
        if not 0 < sigma <= LARGEST_SIGMA:
            raise UserError(
                f"sigma is {sigma:g}: noise on the grid goes up to {LARGEST_SIGMA:g}; "
                "take --noise float"
            )
        return _grid_noise(float(sigma))

    @staticmethod
    def total_variation(sigma: float, image_shape: tuple[int, ...]) -> float:
        """Return how far the noise of one draw may be from the exact one, in total variation.

        A threshold is off by at most 2^-65, and so is the mass beyond the last one on either side.
        A value of the exact noise that is made from the same uniform number differs at most where
        that falls between a threshold and its exact place. (Twice what this gives is returned.)
        """
        most_thresholds = 2 * math.ceil(_REACH * LEVELS * sigma) + 2
        return math.prod(image_shape) * (most_thresholds + 2) * 2.0**-64

    def noisy_slabs(
        self, image_HWC: Tensor, streams: Streams, normalise: Affine
    ) -> Iterator[Tensor]:
        """Yield noisy copies of an image of integers, normalised, as float32 slabs [S, C, H, W].

        They are the draws of one stream after the other. Slabs are channels-last views of one
        buffer that the next slab overwrites. Each value is a function of one integer, and of its
        channel: nothing downstream can tell image from noise.
        """
        shape, device = image_HWC.shape, image_HWC.device
        size, integers = slab_draws(tuple(shape), device), image_HWC.to(torch.int16)
        most = min(size, sum(draws for _, draws in streams))
        buffer_SHWC = torch.empty((most, *shape), device=device)

        for parts in slabs_of_streams(streams, uniform_source, shape, device):
            values_SHWC = self._draw_all(parts, shape)
            slab_SHWC = buffer_SHWC[: len(values_SHWC)]
            slab_SHWC.copy_(values_SHWC.add_(integers))
            yield normalise.apply(slab_SHWC).permute(0, 3, 1, 2)

    def _draw_all(self, parts: list[tuple[Any, int]], shape: tuple[int, ...]) -> Tensor:
        """Return the values of one stream after the other; several are a GPU's."""
        if len(parts) == 1:
            return self.draw(parts[0][0], (parts[0][1], *shape))
        words = torch.cat([each.words(n * math.prod(shape)) for each, n in parts])
        return self._by_search(words).view(-1, *shape)

    def draw(self, uniform: CounterUniform | TorchUniform, shape: tuple[int, ...]) -> Tensor:
        """Return the next values of a stream as int16 of any shape, on its device."""
        if isinstance(uniform, TorchUniform):
            return self._by_search(uniform.words(math.prod(shape))).view(shape)
        return torch.from_numpy(self._by_table(uniform, math.prod(shape))).view(shape)

    def _by_table(self, uniform: CounterUniform, count: int) -> NDArray[np.int16]:
        """Look the upper 16 bits up; where they do not decide, draw 48 more."""
        cells, values = uniform.cells(count), np.empty(count, dtype=np.int16)
        np.take(self.table, cells, out=values, mode="clip")
        is_undecided = np.flatnonzero(values < np.int16(_FIRST_CODE + len(self.starts)))
        which = values[is_undecided].astype(np.int64) - _FIRST_CODE
        rest, only = uniform.rest(len(which)), self.only_thresholds[which]
        decided = self.first_values[which] + (rest >= only)
        is_many = np.flatnonzero(only == _CELL)
        words = self.starts[which[is_many]] + rest[is_many]
        decided[is_many] = self.lowest + np.searchsorted(self.thresholds, words, side="right")
        values[is_undecided] = decided
        return values

    def _by_search(self, words: Tensor) -> Tensor:
        """Search all: on a GPU it costs less than to find out where it is needed."""
        if words.device not in self.moved_thresholds:
            # torch compares int64: both sides are moved by 2^63.
            moved = (self.thresholds ^ np.uint64(2**63)).view(np.int64)
            self.moved_thresholds[words.device] = send(torch.from_numpy(moved), words.device)
        thresholds = self.moved_thresholds[words.device]
        found = torch.bucketize(words, thresholds, right=True, out_int32=True)
        return found.add_(self.lowest).to(torch.int16)


class CounterUniform:
    """Uniform 64-bit numbers of one stream: Philox4x64-10, the same on every CPU.

    Key and counter name the stream, so no two blocks of a run share a number. The upper 16 bits of
    the numbers come from one counter, the other 48, of the few that need them, from another.
    """

    def __init__(self, stream: Stream) -> None:
        """Start at the stream's first number; seeds that are equal modulo 2^64 are one seed."""
        key = np.array([stream.seed % _WORD, stream.index], dtype=np.uint64)
        lane = 2 * STAGES.index(stream.stage)
        self._cells, self._rest = (
            np.random.Philox(key=key, counter=np.array([0, 0, stream.block, part], np.uint64))
            for part in (lane, lane + 1)
        )

    def cells(self, count: int) -> NDArray[np.uint16]:
        """Return the upper 16 bits of the next numbers [count]."""
        words: NDArray[np.uint64] = self._cells.random_raw(-(-count // 4))
        return words.astype("<u8", copy=False).view("<u2")[:count]

    def rest(self, count: int) -> NDArray[np.uint64]:
        """Return the lower 48 bits of `count` of them."""
        words: NDArray[np.uint64] = self._rest.random_raw(count)
        return words >> np.uint64(16)


class TorchUniform:
    """Uniform 64-bit numbers of a torch generator: Philox on a GPU, from a 64-bit seed."""

    def __init__(self, generator: torch.Generator) -> None:
        """Go on where the generator is."""
        self._generator = generator

    def words(self, count: int) -> Tensor:
        """Return the next numbers minus 2^63 [count], int64."""
        lowest = torch.iinfo(torch.int64).min
        words = torch.empty(count, dtype=torch.int64, device=self._generator.device)
        return words.random_(lowest, None, generator=self._generator)


def uniform_source(stream: Stream, device: torch.device) -> CounterUniform | TorchUniform:
    """Return a stream's uniform numbers on a device."""
    if device.type == "cpu":
        return CounterUniform(stream)
    return TorchUniform(stream.generator(device))


@functools.lru_cache(maxsize=8)
def _grid_noise(sigma: float) -> GridNoise:
    below = _lower_thresholds(sigma)
    # P(t <= -1 - i) = 1 - P(t <= i): the upper half mirrors the lower one.
    upper = [_WORD - threshold for threshold in below]
    thresholds = np.array(below[::-1] + upper, dtype=np.uint64)
    starts = np.arange(_CELLS, dtype=np.uint64) << np.uint64(48)
    at_first, at_last = (
        np.searchsorted(thresholds, ends, side="right")
        for ends in (starts, starts | np.uint64(_CELL - 1))
    )
    lowest, inside = -len(below), at_last - at_first
    values = (lowest + at_first).astype(np.int16)
    undecided = np.flatnonzero(inside)
    table = values.copy()
    table[undecided] = _FIRST_CODE + np.arange(len(undecided))
    within = thresholds[at_first[undecided]] - starts[undecided]
    return GridNoise(
        sigma,
        lowest,
        thresholds,
        table=table,
        starts=starts[undecided],
        first_values=values[undecided],
        only_thresholds=np.where(inside[undecided] == 1, within, np.uint64(_CELL)),
    )


def _lower_thresholds(sigma: float) -> list[int]:
    """Return 2^64 P(t <= i), rounded to the nearest integer, for i = -1, -2, ... until it is 0.

    They are computed to 192 bits, and it is checked that an error in the last 32 of them, far more
    than mpmath can make, would change no rounding.
    """
    found: list[int] = []
    with mpmath.workprec(192):
        scale, margin = mpmath.mpf(2 * LEVELS) * mpmath.mpf(sigma), mpmath.ldexp(1, -96)
        while True:
            exact = mpmath.ldexp(mpmath.ncdf(-(2 * len(found) + 1) / scale), 64)
            nearest, same = (
                int(mpmath.floor(exact + half)) for half in (0.5 - margin, 0.5 + margin)
            )
            if nearest != same:
                raise ArithmeticError(f"sigma {sigma}: threshold {len(found)} cannot be rounded")
            if nearest == 0:
                return found
            found.append(nearest)
