"""Images that Ray Data reads for training are those that a thread of the process would read."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from rsray.data import open_split
from rsray.distributed.capacity import cores_each
from rsray.distributed.train import feed as feed_module
from rsray.distributed.train.feed import RayFeed, plan_tasks, share_with_reading
from rsray.distributed.train.trainer import train
from rsray.presets import train_config
from rsray.storage import Place
from rsray.training.batches.feeds import ImageSubset, ReadAheadFeed
from rsray.training.batches.reader import Reader
from rsray.training.batches.schedule import Schedule
from rsray.training.run_folder.metrics import read_metrics
from rsray.training.run_folder.run import open_training_split

CPU = torch.device("cpu")
COUNT = 150


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """150 JPEGs of three classes, brighter by class."""
    root = tmp_path_factory.mktemp("pictures")
    draws = np.random.default_rng(0)
    for index in range(COUNT):
        pixels = draws.integers(0, 100, (36, 48, 3)) + 70 * (index % 3)
        where = root / "train" / f"class{index % 3}"
        where.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(where / f"{index:04d}.jpg", quality=95)
    return root


@pytest.fixture(scope="module")
def split(pictures):
    return open_split("imagefolder", "train", str(pictures), image_size=32)


def test_a_plan_names_every_image_of_every_epoch_in_order(split, monkeypatch):
    monkeypatch.setattr(feed_module, "MOST_IMAGES_PER_TASK", 7)
    indices, schedule = (
        np.arange(COUNT) + 1000,
        Schedule(COUNT, 40, epochs=3, seed=0, rank=1, world=2),
    )
    work = plan_tasks(schedule, range(1, 3), indices, Reader(split, "none", 0))
    parts = [part for epoch in (1, 2) for part in schedule.shares(epoch)]
    np.testing.assert_array_equal(
        work.indices, np.concatenate([p.positions_B + 1000 for p in parts])
    )
    sizes = np.diff(work.starts)
    assert sizes.max() <= 7 and sizes.min() >= 4 and work.starts[-1] == len(work.indices)
    assert len(work.epochs) == len(sizes) and list(np.unique(work.epochs)) == [1, 2]
    ends = np.cumsum([len(p.slots) for p in parts])
    assert set(ends) <= set(work.starts), "no task reads for two batches"
    later = plan_tasks(schedule, range(1, 3), indices, Reader(split, "none", 0), first=2)
    left_out = sum(len(part.slots) for part in parts[:2])
    np.testing.assert_array_equal(later.indices, work.indices[left_out:])
    assert list(np.unique(later.epochs)) == [1, 2] and later.starts[-1] == len(later.indices)


def test_cores_of_workers_are_of_one_node():
    assert cores_each([2], 1) == 2 and cores_each([2], 2) == 1
    assert cores_each([4, 2], 2) == 2 and cores_each([4, 4, 0], 2) == 4
    assert cores_each([2], 8) == 1 and cores_each([], 1) == 1


def test_some_of_a_worker_s_cores_are_left_to_the_tasks_that_read_for_it():
    assert share_with_reading(16.0, 1.0) == (1.0, 1.0), "beside a GPU one core is enough"
    assert share_with_reading(1.0, 0.0) == (0.5, 0.5)
    assert share_with_reading(2.0, 0.0) == (1.0, 1.0)
    assert share_with_reading(16.0, 0.0) == (12.0, 1.0)


@pytest.mark.slow
def test_the_pipeline_gives_what_a_thread_gives(ray_session, split, monkeypatch):
    """Two workers, two epochs, tasks smaller than a worker's part; together they see each image."""
    monkeypatch.setattr(feed_module, "MOST_IMAGES_PER_TASK", 16)
    source, reader = (
        ImageSubset(split, np.arange(COUNT), CPU),
        Reader(split, "random-resized-crop", 5),
    )
    for rank in range(2):
        schedule = Schedule(COUNT, 64, epochs=2, seed=1, rank=rank, world=2)
        feed, thread = RayFeed(source, reader, cpus=0.5), ReadAheadFeed(source, reader)
        for epoch in range(2):
            found = list(feed.batches(schedule, epoch))
            expected = list(thread.batches(schedule, epoch))
            assert len(found) == len(expected) == 3
            for (images, labels), (other, other_labels) in zip(found, expected, strict=True):
                assert torch.equal(images, other) and torch.equal(labels, other_labels)
                assert images.dtype == torch.uint8 and images.shape[1:] == (3, 32, 32)
        assert list(feed.batches(replace(schedule, epochs=3), 2)), "an epoch that was not planned"
        begun = RayFeed(source, reader, cpus=0.5)
        for epoch, first in ((0, 2), (1, 0)):
            found = [images for images, _ in begun.batches(schedule, epoch, first)]
            expected = [images for images, _ in thread.batches(schedule, epoch, first)]
            assert len(found) == 3 - first and all(map(torch.equal, found, expected))


@pytest.mark.slow
def test_a_streamed_run_trains_as_an_undivided_one(pictures, tmp_path):
    """`train` takes the pipeline by itself; a thread in this process gives the same curve."""
    from rsray.training.loop import Training

    config = train_config({
        "dataset": "imagefolder", "data_root": str(pictures), "image_size": 32, "epochs": 3,
        "model": "lenet", "objective": "gaussian", "batch_size": 64, "lr": 0.05, "sigma": 0.1,
        "augmentation": "random-resized-crop", "precision": "fp32",
    })  # fmt: skip
    train(config, Place.of(tmp_path / "run"), open_training_split(config))
    rows = []
    Training(config, None, CPU).run_epochs(lambda row: rows.append(row))
    found = [row["loss"] for row in read_metrics(Place.of(tmp_path / "run"))]
    assert found == pytest.approx([row["loss"] for row in rows], abs=1e-4)
    assert len(found) == 3 and found[-1] < found[0]
