"""Batches from a tensor on the device and from a reader one batch ahead are the same batches."""

import numpy as np
import pytest
import torch

import rsray.training.batches.feeds as feeds_module
from rsray.data import open_split
from rsray.training.batches.feeds import ImageSubset, ReadAheadFeed, ResidentFeed, is_streamed
from rsray.training.batches.reader import Reader
from rsray.training.batches.schedule import Schedule

CPU = torch.device("cpu")


def feeds(indices):
    split = open_split("digits", "train")
    feed = ImageSubset(split, np.asarray(indices), CPU)
    return ResidentFeed(feed), ReadAheadFeed(feed, Reader(split, "none", 0))


def listed(feed, schedule, epoch=0):
    return [(images.clone(), labels.clone()) for images, labels in feed.batches(schedule, epoch)]


@pytest.mark.parametrize("kind", [0, 1])
def test_batches_are_the_images_named(kind):
    split, indices = open_split("digits", "train"), np.array([5, 900, 17, 3, 8, 1346])
    schedule = Schedule(6, 4, epochs=2, seed=3)
    for epoch in (0, 1):
        batches = listed(feeds(indices)[kind], schedule, epoch)
        assert [len(labels) for _, labels in batches] == [4, 2]
        for part, (images, labels) in zip(schedule.shares(epoch), batches, strict=True):
            wanted = indices[part.positions_B.numpy()]
            np.testing.assert_array_equal(images.numpy(), split.images(wanted))
            np.testing.assert_array_equal(labels.numpy(), split.labels[wanted])
            assert images.dtype == torch.uint8 and labels.dtype == torch.int64


@pytest.mark.parametrize("kind", [0, 1])
def test_an_epoch_that_was_begun_goes_on_at_its_step(kind):
    feed, schedule = feeds(range(70))[kind], Schedule(70, 16, epochs=1, seed=0)
    whole, rest = listed(feed, schedule), list(feed.batches(schedule, 0, 3))
    assert len(whole) == 5 and len(rest) == 2
    for (images, labels), (other_images, other_labels) in zip(whole[3:], rest, strict=True):
        assert torch.equal(images, other_images) and torch.equal(labels, other_labels)
    assert list(feed.batches(schedule, 0, 5)) == []


@pytest.mark.parametrize("rank", [0, 1])
def test_streamed_equals_resident(rank):
    indices = np.random.default_rng(0).permutation(1347)[:70]
    schedule = Schedule(70, 16, epochs=1, seed=0, rank=rank, world=2)
    resident, streamed = (listed(feed, schedule) for feed in feeds(indices))
    assert len(resident) == len(streamed) == 5
    for (images, labels), (other_images, other_labels) in zip(resident, streamed, strict=True):
        assert torch.equal(images, other_images) and torch.equal(labels, other_labels)


def test_the_border_is_the_size_in_bytes(monkeypatch):
    split = open_split("digits", "train")
    monkeypatch.setattr(feeds_module, "IN_MEMORY_BYTES", 70 * 64)
    assert not is_streamed(split, 70, "crop-flip") and is_streamed(split, 71, "crop-flip")
    assert is_streamed(split, 1, "random-resized-crop"), "cut from the pictures on disk"


def test_a_streamed_run_ends_with_the_same_weights(lab, monkeypatch):
    changes = {"augmentation": "crop-flip"}
    resident = lab.training(lab.config(**changes))
    assert isinstance(resident.feed, ResidentFeed)
    monkeypatch.setattr(feeds_module, "IN_MEMORY_BYTES", 0)
    streamed = lab.training(lab.config(**changes))
    assert isinstance(streamed.feed, ReadAheadFeed)
    for training in (resident, streamed):
        training.run_epochs()
    one, other = (training.model.state_dict() for training in (resident, streamed))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_reader_that_fails_stops_the_run(monkeypatch):
    _, feed = feeds(np.arange(8))

    def fail(self, indices):
        raise OSError("the disk is gone")

    monkeypatch.setattr(type(feed.reader.split), "images", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        list(feed.batches(Schedule(8, 4, epochs=1, seed=0), 0))


def test_a_streamed_epoch_may_be_left_early():
    _, feed = feeds(np.arange(9))
    schedule = Schedule(9, 1, epochs=1, seed=0)
    reading = feed.batches(schedule, 0)
    next(reading)
    reading.close()
    assert len(list(feed.batches(schedule, 0))) == 9


def test_no_batches_at_all():
    _, feed = feeds(np.arange(1))
    assert list(feed.batches(Schedule(1, 4, epochs=1, seed=0, world=2), 0)) == []
