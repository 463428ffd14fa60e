"""Batched augmentation against one image at a time."""

import numpy as np
import pytest
import torch

from rsray.errors import UserError
from rsray.training.batches.augment import NUMBERS_PER_IMAGE, PADDING_PIXELS, augment_images


def batch(size=24, shape=(3, 6, 7)):
    generator = torch.Generator().manual_seed(size)
    return torch.randint(0, 256, (size, *shape), generator=generator, dtype=torch.uint8)


def draws(size, seed=5):
    return torch.rand(size, NUMBERS_PER_IMAGE, generator=torch.Generator().manual_seed(seed))


def crop_flip_one(image, is_flipped, top, left):
    """Mirror, surround with zeros, cut out."""
    _, height, width = image.shape
    mirrored = image[:, :, ::-1] if is_flipped else image
    padded = np.pad(
        mirrored, ((0, 0), (PADDING_PIXELS, PADDING_PIXELS), (PADDING_PIXELS, PADDING_PIXELS))
    )
    return padded[:, top : top + height, left : left + width]


def test_crop_flip_is_a_slow_loop():
    images, numbers = batch(), draws(24)
    expected = [
        crop_flip_one(image.numpy(), bool(flip < 0.5), int(top * 9), int(left * 9))
        for image, (flip, top, left) in zip(images, numbers.tolist(), strict=True)
    ]
    found = augment_images(images, "crop-flip", numbers)
    assert found.dtype == torch.uint8 and found.shape == images.shape
    np.testing.assert_array_equal(found.numpy(), np.stack(expected))


def test_every_crop_and_both_mirrors_come_up_equally_often():
    image = torch.arange(1, 26, dtype=torch.uint8).view(1, 1, 5, 5)
    many = augment_images(image.expand(20_000, -1, -1, -1), "crop-flip", draws(20_000))
    outcomes, counts = many.flatten(1).unique(dim=0, return_counts=True)
    possible = {
        crop_flip_one(image[0].numpy(), flip, top, left).tobytes()
        for flip in (False, True)
        for top in range(2 * PADDING_PIXELS + 1)
        for left in range(2 * PADDING_PIXELS + 1)
    }
    assert {outcome.numpy().tobytes() for outcome in outcomes} == possible
    # 162 outcomes, some alike (a corner of one pixel): the most frequent 123 times on average.
    assert counts.min() > 60


def test_the_input_is_left_alone():
    images = batch()
    before = images.clone()
    augment_images(images, "crop-flip", draws(24))
    assert torch.equal(images, before)


@pytest.mark.parametrize("kind", ["none", "random-resized-crop"])
def test_the_identity(kind):
    images = batch()
    assert augment_images(images, kind, draws(24)) is images, "the reader cuts (see reader.py)"


def test_one_image_and_grey_images():
    assert augment_images(batch(1, (1, 8, 8)), "crop-flip", draws(1)).shape == (1, 1, 8, 8)


def test_unknown_kind():
    with pytest.raises(UserError, match="'cutout' is unknown; choose one of none, crop-flip"):
        augment_images(batch(), "cutout", draws(24))
