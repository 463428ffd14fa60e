"""Mean and standard deviation of the channels, applied inside the network.

Noise is added to images in [0, 1], BEFORE this layer, so that sigma and radii are in pixel units.
"""

# Shapes: N images, C H W an image.
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalise(nn.Module):
    """(image - mean) / std of each channel; both are buffers [C, 1, 1], saved with the weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Keep the statistics; raises ValueError unless they pair up and every std is positive."""
        super().__init__()
        if len(mean) != len(std) or not all(value > 0 for value in std):
            raise ValueError(f"mean and std must pair up, std above 0: got {mean} and {std}")
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return the normalised images [N, C, H, W]."""
        return (images_NCHW - self.mean) / self.std
