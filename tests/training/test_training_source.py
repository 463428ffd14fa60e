"""Batches from a tensor on the device and from a reader one batch ahead are the same batches."""

import numpy as np
import pytest
import torch

import rsray.training.source as source_module
from rsray.data import open_split
from rsray.training.randomness import permutation
from rsray.training.source import Source

CPU = torch.device("cpu")


def batches(orders, indices):
    source = Source(open_split("digits", "train"), indices, CPU)
    return [(images.clone(), labels.clone()) for images, labels in source.batches(orders)]


@pytest.fixture
def streamed(monkeypatch):
    monkeypatch.setattr(source_module, "IN_MEMORY_BYTES", 0)


def test_resident_batches_are_the_images_named():
    split = open_split("digits", "train")
    indices = np.array([5, 900, 17, 3, 3, 1346])
    ((images, labels), (one, _)) = batches([torch.tensor([5, 0, 2]), torch.tensor([4])], indices)
    np.testing.assert_array_equal(images.numpy(), split.images([1346, 5, 17]))
    np.testing.assert_array_equal(labels.numpy(), split.labels[[1346, 5, 17]])
    np.testing.assert_array_equal(one.numpy(), split.images([3]))
    assert images.dtype == torch.uint8 and labels.dtype == torch.int64


def test_streamed_equals_resident(monkeypatch):
    orders = list(permutation(70, 0, 0).split(16))
    indices = np.random.default_rng(0).permutation(1347)[:70]
    resident = batches(orders, indices)
    monkeypatch.setattr(source_module, "IN_MEMORY_BYTES", 70 * 64 - 1)  # one byte too small
    streamed = batches(orders, indices)
    assert len(resident) == len(streamed) == 5
    for (images, labels), (other_images, other_labels) in zip(resident, streamed, strict=True):
        assert torch.equal(images, other_images) and torch.equal(labels, other_labels)


def test_the_border_is_the_size_in_bytes(monkeypatch):
    source = Source(open_split("digits", "train"), np.arange(70), CPU)
    monkeypatch.setattr(Source, "_streamed", lambda self, orders: iter(["streamed"]))
    monkeypatch.setattr(Source, "_resident", lambda self, orders: iter(["resident"]))
    for limit, kind in ((70 * 64, "resident"), (70 * 64 - 1, "streamed")):
        monkeypatch.setattr(source_module, "IN_MEMORY_BYTES", limit)
        assert list(source.batches([])) == [kind]


def test_a_streamed_run_ends_with_the_same_weights(lab, monkeypatch):
    resident = lab.weights(lab.config())
    monkeypatch.setattr(source_module, "IN_MEMORY_BYTES", 0)
    streamed = lab.weights(lab.config())
    assert all(torch.equal(resident[key], streamed[key]) for key in resident)


def test_a_reader_that_fails_stops_the_run(streamed, monkeypatch):
    split = open_split("digits", "train")
    source = Source(split, np.arange(8), CPU)

    def fail(self, indices):
        raise OSError("the disk is gone")

    monkeypatch.setattr(type(split), "images", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        list(source.batches([torch.arange(4), torch.arange(4)]))


def test_a_streamed_epoch_may_be_left_early(streamed):
    orders = [torch.tensor([position]) for position in range(9)]
    source = Source(open_split("digits", "train"), np.arange(9), CPU)
    reading = source.batches(orders)
    next(reading)
    reading.close()
    assert len(list(source.batches(orders))) == 9


def test_no_batches_at_all(streamed):
    assert list(Source(open_split("digits", "train"), np.arange(1), CPU).batches([])) == []
