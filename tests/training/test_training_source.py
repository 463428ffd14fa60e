"""Batches from a tensor on the device and from a reader one batch ahead are the same batches."""

import numpy as np
import pytest
import torch

import rsray.training.source as source_module
from rsray.data import open_split
from rsray.training.reader import Reader
from rsray.training.schedule import Schedule
from rsray.training.source import ReadAhead, Resident, Source, is_streamed

CPU = torch.device("cpu")


def sources(indices):
    split = open_split("digits", "train")
    source = Source(split, np.asarray(indices), CPU)
    return Resident(source), ReadAhead(source, Reader(split, "none", 0))


def listed(source, schedule, epoch=0):
    return [(images.clone(), labels.clone()) for images, labels in source.batches(schedule, epoch)]


@pytest.mark.parametrize("kind", [0, 1])
def test_batches_are_the_images_named(kind):
    split, indices = open_split("digits", "train"), np.array([5, 900, 17, 3, 8, 1346])
    schedule = Schedule(6, 4, epochs=2, seed=3)
    for epoch in (0, 1):
        batches = listed(sources(indices)[kind], schedule, epoch)
        assert [len(labels) for _, labels in batches] == [4, 2]
        for part, (images, labels) in zip(schedule.parts(epoch), batches, strict=True):
            wanted = indices[part.positions_B.numpy()]
            np.testing.assert_array_equal(images.numpy(), split.images(wanted))
            np.testing.assert_array_equal(labels.numpy(), split.labels[wanted])
            assert images.dtype == torch.uint8 and labels.dtype == torch.int64


@pytest.mark.parametrize("rank", [0, 1])
def test_streamed_equals_resident(rank):
    indices = np.random.default_rng(0).permutation(1347)[:70]
    schedule = Schedule(70, 16, epochs=1, seed=0, rank=rank, world=2)
    resident, streamed = (listed(source, schedule) for source in sources(indices))
    assert len(resident) == len(streamed) == 5
    for (images, labels), (other_images, other_labels) in zip(resident, streamed, strict=True):
        assert torch.equal(images, other_images) and torch.equal(labels, other_labels)


def test_the_border_is_the_size_in_bytes(monkeypatch):
    split = open_split("digits", "train")
    monkeypatch.setattr(source_module, "IN_MEMORY_BYTES", 70 * 64)
    assert not is_streamed(split, 70, "crop-flip") and is_streamed(split, 71, "crop-flip")
    assert is_streamed(split, 1, "random-resized-crop"), "cut from the pictures on disk"


def test_a_streamed_run_ends_with_the_same_weights(lab, monkeypatch):
    changes = {"augmentation": "crop-flip"}
    resident = lab.training(lab.config(**changes))
    assert isinstance(resident.batches, Resident)
    monkeypatch.setattr(source_module, "IN_MEMORY_BYTES", 0)
    streamed = lab.training(lab.config(**changes))
    assert isinstance(streamed.batches, ReadAhead)
    for training in (resident, streamed):
        training.run_epochs()
    one, other = (training.model.state_dict() for training in (resident, streamed))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_reader_that_fails_stops_the_run(monkeypatch):
    _, source = sources(np.arange(8))

    def fail(self, indices):
        raise OSError("the disk is gone")

    monkeypatch.setattr(type(source.reader.split), "images", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        list(source.batches(Schedule(8, 4, epochs=1, seed=0), 0))


def test_a_streamed_epoch_may_be_left_early():
    _, source = sources(np.arange(9))
    schedule = Schedule(9, 1, epochs=1, seed=0)
    reading = source.batches(schedule, 0)
    next(reading)
    reading.close()
    assert len(list(source.batches(schedule, 0))) == 9


def test_no_batches_at_all():
    _, source = sources(np.arange(1))
    assert list(source.batches(Schedule(1, 4, epochs=1, seed=0, world=2), 0)) == []
