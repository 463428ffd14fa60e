"""Gaussian noise that depends on (seed, image index, stage, block) and on nothing else.

A block is a fixed number of draws with a random stream of its own. Its noise is generated in slabs
of a size fixed by the image size and the device type alone, in channels-last order, so batch size,
memory format, number of actors, order of work and restarts cannot change a single value. CUDA's
generator deals its numbers out by the GPU's number of multiprocessors: another model of GPU draws
other noise from the same stream, and the certificates are as sound.
"""

# Shapes: S draws in a slab, C H W an image.
from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Stage = Literal["selection", "estimation", "pilot", "validation"]
STAGES: tuple[Stage, ...] = ("selection", "estimation", "pilot", "validation")
SLAB_VALUES = {
    "cpu": 2**16,
    "cuda": 2**24,
}  # values per slab: L2 cache on a CPU, a full grid on a GPU
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


def slabs(
    stream: Stream,
    draws: int,
    image_shape: tuple[int, int, int],
    sigma: float,
    device: torch.device,
) -> Iterator[Tensor]:
    """Yield the stream's first `draws` draws of N(0, sigma^2 I) as float32 slabs [S, C, H, W].

    Slabs are channels-last views of one buffer that the next slab overwrites: use before advancing.
    """
    channels, height, width = image_shape
    generator = stream.generator(device)
    size = min(draws, slab_draws(image_shape, device))
    buffer_SHWC = torch.empty((size, height, width, channels), device=device)
    for start in range(0, draws, size):
        slab_SHWC = buffer_SHWC[: min(size, draws - start)]
        slab_SHWC.normal_(0.0, sigma, generator=generator)
        yield slab_SHWC.permute(0, 3, 1, 2)


def block_noise(
    stream: Stream,
    draws: int,
    image_shape: tuple[int, int, int],
    sigma: float,
    device: torch.device,
) -> Tensor:
    """Return the stream's first `draws` draws at once [draws, C, H, W]."""
    return torch.cat([slab.clone() for slab in slabs(stream, draws, image_shape, sigma, device)])
