"""Augmentation of a whole batch on its device: no Python per image."""

# Shapes: B images, C H W an image.
from __future__ import annotations

import torch
from torch import Tensor

from rsray.config import choose

AUGMENTATIONS = ("none", "crop-flip", "random-resized-crop")
PADDING = 4  # pixels of zero around a CIFAR image before the crop


def augment(images_BCHW: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """Return the augmented batch, uint8 [B, C, H, W]; `generator` is on the CPU.

    `random-resized-crop` is done by the reader, where the full-size image is: here it only flips.
    """
    choose(kind, AUGMENTATIONS, "augmentation")
    if kind == "none":
        return images_BCHW
    flipped = _flip(images_BCHW, generator)
    return _crop(flipped, generator) if kind == "crop-flip" else flipped


def _flip(images_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    flips_B = (torch.rand(len(images_BCHW), generator=generator) < 0.5).to(images_BCHW.device)
    return torch.where(flips_B[:, None, None, None], images_BCHW.flip(-1), images_BCHW)


def _crop(images_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    batch, _, height, width = images_BCHW.shape
    device = images_BCHW.device
    padded = torch.nn.functional.pad(images_BCHW, (PADDING,) * 4)
    shift_2B = torch.randint(0, 2 * PADDING + 1, (2, batch), generator=generator).to(device)
    rows_BH = shift_2B[0, :, None] + torch.arange(height, device=device)
    columns_BW = shift_2B[1, :, None] + torch.arange(width, device=device)
    images = torch.arange(batch, device=device)[:, None, None]
    # Advanced indices around the channel slice put it last: [B, H, W, C].
    return padded[images, :, rows_BH[:, :, None], columns_BW[:, None, :]].permute(0, 3, 1, 2)
