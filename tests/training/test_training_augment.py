"""Batched augmentation against one image at a time."""

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import affine

from rsray.errors import UserError
from rsray.training.batches.augment import (
    MOST_DEGREES,
    MOST_SCALE,
    MOST_SHIFT,
    NUMBERS_PER_IMAGE,
    PADDING_PIXELS,
    augment_images,
)


def batch(size=24, shape=(3, 6, 7)):
    generator = torch.Generator().manual_seed(size)
    return torch.randint(0, 256, (size, *shape), generator=generator, dtype=torch.uint8)


def draws(size, kind="crop-flip", seed=5):
    return torch.rand(size, NUMBERS_PER_IMAGE[kind], generator=torch.Generator().manual_seed(seed))


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


@pytest.mark.parametrize("kind", ["crop-flip", "affine"])
def test_the_input_is_left_alone(kind):
    images = batch()
    before = images.clone()
    augment_images(images, kind, draws(24, kind))
    assert torch.equal(images, before)


def smooth(shape=(24, 32)):
    """An image [1, 1, H, W] that changes slowly, so that where it is read from shows."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] / max(shape)
    waves = 128 + 60 * np.sin(4 * rows + 3 * columns**2) + 60 * np.cos(5 * columns - 2 * rows**2)
    return torch.from_numpy(waves.round().astype(np.uint8))[None, None]


def middle(image):
    """What no border has reached."""
    return image[..., 8:-8, 8:-8].int()


@pytest.mark.parametrize("shape", [(28, 28), (25, 50), (50, 25)])
@pytest.mark.parametrize(
    ("turn", "scale", "right", "down"),
    [(1, 0, 0, 0), (-0.6, 0, 0, 0), (0, 1, 0, 0), (0, -0.7, 0, 0), (0, 0, 1, 0), (0, 0, 0, -1),
     (0.5, -0.7, 0, 0)],
)  # fmt: skip
def test_affine_reads_where_torchvision_does(shape, turn, scale, right, down):
    image = smooth(shape)
    sides = torch.tensor([[turn, 0, scale, scale, right, down]])
    found = augment_images(image, "affine", (sides + 1) / 2)
    # A place is read from `across` to the right in the old picture, so what is there comes left.
    across, along = -right * MOST_SHIFT * shape[1], -down * MOST_SHIFT * shape[0]
    expected = affine(
        image.float(), -turn * MOST_DEGREES, [round(across), round(along)],
        1 / (1 + scale * MOST_SCALE), [0.0, 0.0], InterpolationMode.BILINEAR,
    )  # fmt: skip
    off = round(across) - across, round(along) - along
    assert (middle(found) - middle(expected)).abs().max() <= 1 + 30 * max(map(abs, off))


def test_affine_leaves_an_undistorted_image_and_brings_in_zeros():
    images = batch(5, (1, 28, 28))
    as_they_are = torch.full((5, NUMBERS_PER_IMAGE["affine"]), 0.5)
    assert torch.equal(augment_images(images, "affine", as_they_are), images)
    white = torch.full((200, 1, 28, 28), 255, dtype=torch.uint8)
    many = augment_images(white, "affine", draws(200, "affine"))
    assert many.dtype == torch.uint8 and bool((middle(many) == 255).all())
    corners = many[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners < 255).float().mean() > 0.3 and len(many.unique(dim=0)) == 200


def test_affine_distorts_each_image_by_its_own_draws():
    images, numbers = batch(6, (3, 20, 20)), draws(6, "affine")
    together = augment_images(images, "affine", numbers)
    for one in range(6):
        alone = augment_images(images[one : one + 1], "affine", numbers[one : one + 1])
        assert (alone[0].int() - together[one].int()).abs().max() <= 1


@pytest.mark.parametrize("kind", ["none", "random-resized-crop"])
def test_the_identity(kind):
    images = batch()
    assert augment_images(images, kind, draws(24)) is images, "the reader cuts (see reader.py)"


def test_one_image_and_grey_images():
    assert augment_images(batch(1, (1, 8, 8)), "crop-flip", draws(1)).shape == (1, 1, 8, 8)


def test_unknown_kind():
    with pytest.raises(
        UserError, match="'cutout' is unknown; choose one of none, affine, crop-flip"
    ):
        augment_images(batch(), "cutout", draws(24))
