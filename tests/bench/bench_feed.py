"""Images per second of decoding alone, of the Ray Data pipeline, and of training through it.

    uv run python tests/bench/bench_feed.py FOLDER [SIDE]

FOLDER holds class folders of JPEGs; four fifths of them are the training split. The network is
tiny, so training should come close to what the cores decode.
"""

import sys
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from torch import nn

from rsray.core.hardware import available_cpus
from rsray.data import open_split
from rsray.distributed.session import session
from rsray.distributed.train.feed import RayFeed
from rsray.presets import train_config
from rsray.training.batches.feeds import ImageSubset
from rsray.training.batches.reader import RESIZED_CROP, Reader
from rsray.training.batches.schedule import Schedule
from rsray.training.loop import Training
from rsray.training.step import Batch, EpochSums

EPOCHS, BATCH = 4, 64
CPU = torch.device("cpu")


def tiny(image_shape, num_classes):
    """Return a network that costs little beside decoding."""
    channels, height, width = image_shape
    pooled = channels * (height // 8) * (width // 8)
    return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(pooled, num_classes))


def say(what, rate, more=""):
    print(f"{what:34} {rate:8.0f} images/s {more}", flush=True)


def read_share(job):
    """Return the seconds that reading these images takes, the listing of files apart."""
    reader, indices = job
    reader.read(indices[:1], 0)
    started = time.perf_counter()
    for at in range(0, len(indices), BATCH):
        reader.read(indices[at : at + BATCH], 0)
    return time.perf_counter() - started


def decoding(reader, count, cores):
    with ProcessPoolExecutor(cores) as pool:
        shares = np.array_split(np.arange(count), cores)
        seconds = max(pool.map(read_share, [(reader, share) for share in shares]))
    say(f"decoding alone, {cores} processes", count / seconds)
    return count / seconds


def pipeline(reader, count):
    feed = RayFeed(ImageSubset(reader.split, np.arange(count), CPU), reader)
    schedule, sizes = Schedule(count, BATCH, epochs=EPOCHS, seed=0), []
    times = [time.perf_counter()]
    for epoch in range(EPOCHS):
        for images, _ in feed.batches(schedule, epoch):
            times.append(time.perf_counter())
            sizes.append(len(images))
    rate = sum(sizes[1:]) / (times[-1] - times[1])
    say("pipeline alone", rate, f"(after the first batch, which took {times[1] - times[0]:.1f} s)")


def training(folder, side, count):
    config = train_config({
        "dataset": "imagefolder", "data_root": folder, "image_size": side, "epochs": EPOCHS,
        "model": "bench_feed:tiny", "objective": "gaussian", "batch_size": BATCH, "lr": 1e-4,
        "augmentation": RESIZED_CROP, "precision": "fp32",
    })  # fmt: skip
    run = Training(config, None, CPU, open_feed=RayFeed)
    run.run_epochs(lambda row: say(f"training, epoch {row['epoch']}", count / row["seconds"]))
    return run


def step_alone(run):
    """Return images per second of training steps on one core."""
    images = torch.from_numpy(run.split.images(range(BATCH)))
    labels = torch.from_numpy(run.split.labels[:BATCH].copy())
    batch = Batch(images, labels, range(BATCH), BATCH, (0, 0, 0))
    started = time.perf_counter()
    for _ in range(8):
        run.stepper.step(batch, run.objective, EpochSums(CPU))
    rate = 8 * BATCH / (time.perf_counter() - started)
    say("training step alone, one thread", rate)
    return rate


def main(folder, side):
    torch.set_num_threads(1)
    split = open_split("imagefolder", "train", folder, image_size=side)
    reader, cores = Reader(split, RESIZED_CROP, 0), available_cpus()
    print(f"{len(split)} pictures to {side} x {side}, {cores} cores")
    decode = decoding(reader, len(split), cores)
    with session("local"):
        pipeline(reader, len(split))
        run = training(folder, side, len(split))
    step = step_alone(run)
    say(f"limit of {cores} cores for both", 1 / (1 / decode + 1 / (cores * step)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 224)
