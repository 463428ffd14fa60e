"""Augmentation of a whole batch on its device: no Python per image."""

# Shapes: B images, C H W an image.
from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from rsray.core.gpus import send
from rsray.family import choose
from rsray.training.batches.reader import RESIZED_CROP

AFFINE = "affine"
CROP_FLIP = "crop-flip"
AUGMENTATIONS = ("none", AFFINE, CROP_FLIP, RESIZED_CROP)
# A CIFAR image gets so many pixels of zero on each side before the crop.
PADDING_PIXELS = 4
# The most that `affine` turns, shears, scales and shifts (a share of the picture's side): what
# leaves a digit the digit that it is.
MOST_DEGREES, MOST_SHEAR, MOST_SCALE, MOST_SHIFT = 12.0, 0.2, 0.1, 0.04
# How many uniform draws decide what becomes of an image: the flip and the crop's two sides;
# the angle, the shear, the scale of both sides and the shift along both.
NUMBERS_PER_IMAGE = {CROP_FLIP: 3, AFFINE: 6}


def augment_images(images_BCHW: Tensor, kind: str, draws_BN: Tensor) -> Tensor:
    """Return the augmented batch, uint8 [B, C, H, W], decided by uniform draws in [0, 1).

    `random-resized-crop` is done by the reader, where the full-size picture is (see reader.py).
    """
    choose(kind, AUGMENTATIONS, "augmentation")
    draws_BN = send(draws_BN, images_BCHW.device)
    if kind == AFFINE:
        return _distort_each(images_BCHW, 2 * draws_BN - 1)
    if kind == CROP_FLIP:
        return _flip_and_crop_each(images_BCHW, draws_BN)
    return images_BCHW


def _distort_each(images_BCHW: Tensor, sides_B6: Tensor) -> Tensor:
    """Turn, shear, scale and shift each image about its middle, by shares of the most in (-1, 1).

    Between pixels it is read bilinearly; what comes in from outside is zero.
    """
    turn_B, shear_B, wide_B, high_B, right_B, down_B = sides_B6.unbind(1)
    angle_B = turn_B * math.radians(MOST_DEGREES)
    cosine_B, sine_B = angle_B.cos(), angle_B.sin()
    shear_B = shear_B * MOST_SHEAR
    wide_B, high_B = 1 + wide_B * MOST_SCALE, 1 + high_B * MOST_SCALE
    # From a place in the new picture to the one in the old, both from -1 to 1 along each side: of
    # a picture that is not square, the same turn is another matrix.
    height, width = images_BCHW.shape[-2:]
    across_B = torch.stack(
        (
            wide_B * cosine_B,
            (shear_B * cosine_B - high_B * sine_B) * (height / width),
            2 * MOST_SHIFT * right_B,
        ),
        1,
    )
    down_B = torch.stack(
        (
            wide_B * sine_B * (width / height),
            shear_B * sine_B + high_B * cosine_B,
            2 * MOST_SHIFT * down_B,
        ),
        1,
    )
    rows_B23 = torch.stack((across_B, down_B), 1)
    grid_BHW2 = functional.affine_grid(rows_B23, list(images_BCHW.shape), align_corners=False)
    moved = functional.grid_sample(images_BCHW.float(), grid_BHW2, align_corners=False)
    return moved.round_().clamp_(0, 255).to(torch.uint8)


def _flip_and_crop_each(images_BCHW: Tensor, draws_B3: Tensor) -> Tensor:
    flips_B = draws_B3[:, 0] < 0.5
    flipped = torch.where(flips_B[:, None, None, None], images_BCHW.flip(-1), images_BCHW)
    return _crop_each(flipped, (draws_B3[:, 1:] * (2 * PADDING_PIXELS + 1)).long())


def _crop_each(images_BCHW: Tensor, shift_B2: Tensor) -> Tensor:
    """Cut each image [B, C, H, W] out of itself padded with zeros, from (top, left) [B, 2]."""
    batch, _, height, width = images_BCHW.shape
    device = images_BCHW.device
    padded = functional.pad(images_BCHW, (PADDING_PIXELS,) * 4)
    rows_BH = shift_B2[:, :1] + torch.arange(height, device=device)
    columns_BW = shift_B2[:, 1:] + torch.arange(width, device=device)
    images = torch.arange(batch, device=device)[:, None, None]
    # Advanced indices around the channel slice put it last: [B, H, W, C].
    return padded[images, :, rows_BH[:, :, None], columns_BW[:, None, :]].permute(0, 3, 1, 2)
