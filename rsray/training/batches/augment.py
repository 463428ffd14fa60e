"""Augmentation of a whole batch on its device: no Python per image."""

# Shapes: B images, C H W an image.
from __future__ import annotations

import torch
from torch import Tensor

from rsray.core.gpus import send
from rsray.family import choose
from rsray.training.batches.reader import RESIZED_CROP

CROP_FLIP = "crop-flip"
AUGMENTATIONS = ("none", CROP_FLIP, RESIZED_CROP)
# A CIFAR image gets so many pixels of zero on each side before the crop.
PADDING_PIXELS = 4
# One number decides the flip and two decide the crop.
NUMBERS_PER_IMAGE = 3


def augment_images(images_BCHW: Tensor, kind: str, draws_B3: Tensor) -> Tensor:
    """Return the augmented batch, uint8 [B, C, H, W], decided by uniform draws in [0, 1).

    `random-resized-crop` is done by the reader, where the full-size picture is (see reader.py).
    """
    choose(kind, AUGMENTATIONS, "augmentation")
    if kind != CROP_FLIP:
        return images_BCHW
    draws_B3 = send(draws_B3, images_BCHW.device)
    flips_B = draws_B3[:, 0] < 0.5
    flipped = torch.where(flips_B[:, None, None, None], images_BCHW.flip(-1), images_BCHW)
    return _crop_each(flipped, (draws_B3[:, 1:] * (2 * PADDING_PIXELS + 1)).long())


def _crop_each(images_BCHW: Tensor, shift_B2: Tensor) -> Tensor:
    """Cut each image [B, C, H, W] out of itself padded with zeros, from (top, left) [B, 2]."""
    batch, _, height, width = images_BCHW.shape
    device = images_BCHW.device
    padded = torch.nn.functional.pad(images_BCHW, (PADDING_PIXELS,) * 4)
    rows_BH = shift_B2[:, :1] + torch.arange(height, device=device)
    columns_BW = shift_B2[:, 1:] + torch.arange(width, device=device)
    images = torch.arange(batch, device=device)[:, None, None]
    # Advanced indices around the channel slice put it last: [B, H, W, C].
    return padded[images, :, rows_BH[:, :, None], columns_BW[:, None, :]].permute(0, 3, 1, 2)
