"""Random-resized crops: torchvision's distribution, the same for every reader, none alike."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop as Theirs

from rsray.data import open_split
from rsray.data.reading.derived import CachedSplit
from rsray.training.batches.reader import (
    AREA_FRACTIONS,
    ASPECT_RATIOS,
    RandomResizedCrop,
    Reader,
    draw_box,
    with_crop,
)

SIZE = (32, 32)


def picture(seed=0, size=(60, 45)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", [(500, 375), (60, 45), (400, 50)])
def test_boxes_are_distributed_as_torchvisions(size):
    width, height = size
    draws = np.random.default_rng(0)
    ours = np.array([draw_box(width, height, draws) for _ in range(4000)])
    torch.manual_seed(0)
    blank = torch.zeros(3, height, width)
    theirs = np.array(
        [Theirs.get_params(blank, list(AREA_FRACTIONS), list(ASPECT_RATIOS)) for _ in range(4000)]
    )
    left, top, right, bottom = ours.T
    assert (
        (left >= 0).all()
        and (top >= 0).all()
        and (right <= width).all()
        and (bottom <= height).all()
    )
    found = np.stack([top, left, bottom - top, right - left])
    for mine, other in zip(found, theirs.T, strict=True):
        for quantile in (0.1, 0.5, 0.9):
            tolerance = 0.04 * max(size)
            assert abs(np.quantile(mine, quantile) - np.quantile(other, quantile)) <= tolerance


def test_a_picture_too_narrow_for_any_draw_is_cut_in_the_middle():
    left, top, right, bottom = draw_box(1000, 4, np.random.default_rng(0))
    assert (top, bottom) == (0, 4) and (left, right) == (497, 502)
    assert draw_box(1, 1, np.random.default_rng(0)) == (0, 0, 1, 1)


def test_the_crop_depends_on_seed_epoch_and_picture_only():
    cut = [np.asarray(RandomResizedCrop(s, e)(picture(p), SIZE)) for s, e, p in
           ((0, 0, 0), (0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))]  # fmt: skip
    np.testing.assert_array_equal(cut[0], cut[1])
    assert all((cut[0] != other).any() for other in cut[2:])
    assert cut[0].shape == (32, 32, 3)


def test_half_of_the_pictures_are_mirrored():
    """Pictures that grow brighter to the right: a crop shows which way it was put."""
    bright = np.tile(np.arange(200, dtype=np.uint8), (100, 1))
    mirrored = [
        np.diff(np.asarray(RandomResizedCrop(0, epoch)(Image.fromarray(bright), SIZE))[0].astype(int)).sum() < 0
        for epoch in range(400)
    ]  # fmt: skip
    assert 150 < sum(mirrored) < 250


@pytest.fixture
def folder(tmp_path):
    for index in range(12):
        where = tmp_path / "train" / "ab"[index % 2]
        where.mkdir(parents=True, exist_ok=True)
        picture(index, (50 + index, 40)).save(where / f"{index}.png")
    return open_split("imagefolder", "train", str(tmp_path), image_size=24)


def test_a_reader_gives_an_image_the_same_crop_in_any_company(folder):
    reader = Reader(folder, "random-resized-crop", 7)
    whole, labels = reader.read(np.arange(12), 3)
    assert whole.shape == (12, 3, 24, 24)
    other, other_labels = reader.read(np.array([9, 0, 5]), 3)
    np.testing.assert_array_equal(other, whole[[9, 0, 5]])
    np.testing.assert_array_equal(other_labels, labels[[9, 0, 5]])
    later, _ = reader.read(np.arange(12), 4)
    assert (later != whole).reshape(12, -1).any(1).all()
    plain, _ = Reader(folder, "none", 7).read(np.arange(12), 3)
    np.testing.assert_array_equal(plain, folder.images(range(12)))


def test_pictures_that_were_kept_as_they_are_are_cut_anew(folder):
    kept = CachedSplit.of(folder)
    kept.images(range(12))
    for epoch in (3, 4):
        expected, _ = Reader(folder, "random-resized-crop", 7).read(np.arange(12), epoch)
        found, _ = Reader(kept, "random-resized-crop", 7).read(np.arange(12), epoch)
        np.testing.assert_array_equal(found, expected)


def test_the_crop_is_cut_from_the_whole_picture(folder):
    found, _ = Reader(folder, "random-resized-crop", 7).read(np.arange(12), 3)
    for index, file in enumerate(folder._files[0]):
        whole = Image.open(file.open()).convert("RGB")
        expected = np.asarray(RandomResizedCrop(7, 3)(whole, (24, 24))).transpose(2, 0, 1)
        np.testing.assert_array_equal(found[index], expected)


def test_recut_keeps_what_was_read(folder, monkeypatch):
    folder.labels  # noqa: B018 (lists the files)
    monkeypatch.setattr("rsray.data.reading.folder.list_images", None)
    cut = with_crop(folder, RandomResizedCrop(0, 0))
    assert len(cut) == 12 and cut.images([3]).shape == (1, 3, 24, 24)
    digits = open_split("digits", "train")
    assert with_crop(digits, RandomResizedCrop(0, 0)) is digits
