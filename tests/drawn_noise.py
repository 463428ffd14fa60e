"""The noise of a block, as a certificate's noisy copies of a black image show it."""

import torch

from rsray.core import NOISES
from rsray.core.noise import Affine

CPU = torch.device("cpu")


def slabs(kind, stream, draws, shape, sigma, device=CPU):
    """Yield the slabs [S, C, H, W] of the block, in pixels of [0, 1]."""
    channels, height, width = shape
    black_HWC = torch.zeros((height, width, channels), dtype=torch.uint8, device=device)
    yield from NOISES[kind].of(sigma).noisy_slabs(black_HWC, [(stream, draws)], Affine())


def block(kind, stream, draws, shape, sigma, device=CPU):
    """Return the whole block [draws, C, H, W]."""
    return torch.cat([slab.clone() for slab in slabs(kind, stream, draws, shape, sigma, device)])
