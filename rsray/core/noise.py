"""Gaussian noise that depends on (seed, image index, stage, block) and on nothing else.

A block is a fixed number of draws with a random stream of its own. Its noise is generated in slabs
of a size fixed by the image size and the device type alone, in channels-last order, so batch size,
memory format, number of actors, order of work and restarts cannot change a single value. CUDA's
generator deals its numbers out by the GPU's number of multiprocessors, and by how many are asked
for at once: another model of GPU draws other noise from the same stream, and on a GPU the first 100
draws of a block of 1,000 are not those of a block of 100. The certificates are as sound.
"""

# Shapes: S draws in a slab, C H W an image.
from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

Stage = Literal["selection", "estimation", "pilot", "validation"]
STAGES: tuple[Stage, ...] = ("selection", "estimation", "pilot", "validation")
# Values per slab: L2 cache on a CPU, a full grid on a GPU.
SLAB_VALUES = {"cpu": 2**16, "cuda": 2**24}
# Of blocks that share a slab on a GPU: ten of MNIST's.
JOINED_VALUES = 2**23
# A pixel p in [0, 1] is the whole number 255 p
LEVELS = 255
_MASK = 0xFFFFFFFF


@dataclass(frozen=True)
class Stream:
    """Names the random stream of one block of draws of one image."""

    seed: int
    index: int
    stage: Stage
    block: int

    def number(self) -> int:
        """Return the 64-bit seed of the stream.

        The high half is a hash of (seed, index). The low half, all that torch's CPU generator
        uses, is a permutation of (stage, block) keyed by it: within an image no two blocks share
        a stream, so selection and estimation draws are independent by construction.
        """
        digest = hashlib.blake2b(f"{self.seed}:{self.index}".encode(), digest_size=8).digest()
        key = int.from_bytes(digest, "little")
        counter = self.block * len(STAGES) + STAGES.index(self.stage)
        return (key & (_MASK << 32)) | _permute32((counter + (key & _MASK)) & _MASK)

    def generator(self, device: torch.device) -> torch.Generator:
        """Return a fresh generator at the start of the stream."""
        return torch.Generator(device=device).manual_seed(self.number())


Source = TypeVar("Source")
# Of each stream so many draws.
Streams = Sequence[tuple[Stream, int]]


def _permute32(value: int) -> int:
    """Return a bijective mix of 32 bits (Wellons' lowbias32)."""
    value ^= value >> 16
    value = (value * 0x7FEB352D) & _MASK
    value ^= value >> 15
    value = (value * 0x846CA68B) & _MASK
    return value ^ (value >> 16)


def slab_draws(image_shape: tuple[int, ...], device: torch.device) -> int:
    """Return how many draws one slab holds: fixed by image size and device type."""
    values = SLAB_VALUES.get(device.type, SLAB_VALUES["cpu"])
    return max(1, values // math.prod(image_shape))


def slabs_of_streams(
    streams: Streams,
    make: Callable[[Stream, torch.device], Source],
    image_shape: tuple[int, ...],
    device: torch.device,
) -> Iterator[list[tuple[Source, int]]]:
    """Yield what each slab is made of: sources of noise on the device, and the draws of each.

    On a GPU blocks of few values share a slab, so that each is not a call of every kernel. What a
    source is asked for at a time stays the same.
    """
    size = slab_draws(image_shape, device)
    most = JOINED_VALUES // math.prod(image_shape) if device.type != "cpu" else 0
    together, room = list[tuple[Source, int]](), most
    for stream, draws in streams:
        if together and draws > room:
            yield together
            together, room = [], most
        if draws <= room:
            together.append((make(stream, device), draws))
            room -= draws
            continue
        source = make(stream, device)
        for start in range(0, draws, size):
            yield [(source, min(size, draws - start))]
    if together:
        yield together


@dataclass(frozen=True)
class Affine:
    """From pixels in whole steps of 1/255 to what the network wants: (p - mean) / std, or p."""

    # 1 / (255 std) and -mean / std, for every value of an image: the loops over a slab are long.
    scale_HWC: Tensor | None = None
    shift_HWC: Tensor | None = None

    @classmethod
    def of(
        cls,
        mean_C: Tensor | None,
        std_C: Tensor | None,
        image_shape: tuple[int, ...],
        device: torch.device,
    ) -> Affine:
        """Return the normalisation of images [C, H, W] by channel, if there is one."""
        if mean_C is None or std_C is None:
            return cls()
        channels, height, width = image_shape
        mean, std = mean_C.to(device, torch.float64), std_C.to(device, torch.float64)
        scale_HWC, shift_HWC = (
            each.float().expand(height, width, channels).contiguous()
            for each in (1 / (LEVELS * std), -mean / std)
        )
        return cls(scale_HWC, shift_HWC)

    def apply(self, levels_SHWC: Tensor) -> Tensor:
        """Turn whole steps into what the network wants, in place, and return it.

        One rounded operation after the other, never fused: each value is a function of the whole
        number and of its place alone.
        """
        if self.scale_HWC is None or self.shift_HWC is None:
            return levels_SHWC.div_(LEVELS)
        return levels_SHWC.mul_(self.scale_HWC).add_(self.shift_HWC)

    def stretch(self, noise_SHWC: Tensor) -> Tensor:
        """Turn noise of pixels in [0, 1] into noise of what the network wants, in place."""
        return noise_SHWC if self.scale_HWC is None else noise_SHWC.mul_(self.scale_HWC * LEVELS)


@dataclass(frozen=True)
class FloatNoise:
    """N(0, sigma^2) as float32 numbers, for comparison with published certificates.

    A sum of pixel and noise is rounded, and on a CPU no number is beyond 5.77 sigma: a network that
    looks for either can be given a false certificate (README.md, section 7).
    """

    sigma: float
    recorded_name = "float32"

    @classmethod
    def of(cls, sigma: float) -> FloatNoise:
        """Return the noise of a standard deviation, in pixels of [0, 1]."""
        return cls(sigma)

    @staticmethod
    def total_variation(sigma: float, image_shape: tuple[int, ...]) -> float:
        """Return 0: how far it is from exact noise is not known, and nothing is taken off."""
        return 0.0

    def noisy_slabs(
        self, image_HWC: Tensor, streams: Streams, normalise: Affine
    ) -> Iterator[Tensor]:
        """Yield noisy copies of an image of integers, normalised, as float32 slabs [S, C, H, W].

        They are the draws of one stream after the other. Slabs are channels-last views of one
        buffer that the next slab overwrites.
        """
        centre_HWC, device = normalise.apply(image_HWC.float()), image_HWC.device
        size = slab_draws(tuple(image_HWC.shape), device)
        most = min(size, sum(draws for _, draws in streams))
        buffer_SHWC = torch.empty((most, *image_HWC.shape), device=device)

        for parts in slabs_of_streams(streams, Stream.generator, image_HWC.shape, device):
            filled = 0
            for generator, draws in parts:
                part_SHWC = buffer_SHWC[filled : filled + draws]
                part_SHWC.normal_(0.0, self.sigma, generator=generator)
                filled += draws
            slab_SHWC = normalise.stretch(buffer_SHWC[:filled])
            yield slab_SHWC.add_(centre_HWC).permute(0, 3, 1, 2)
