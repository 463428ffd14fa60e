"""Peak memory and time of the driver's side of a certification, by the number of images.

    uv run python tests/bench/bench_memory.py [--images 5000 50000] [--soft]

Counts of a run with 1,000 classes and n = 100,000 are stored as the fleet would, without a network:
six classes a block, chosen at random. With --soft n is 5,000, and a block holds the soft sums of all
classes for the hoeffding bound. Then a fresh process plans what is owed (nothing), and turns
the counts into certificates. Memory is the process's peak beyond its imports.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
import pyarrow as pa

from rsray.certification.counts.gathering import gather
from rsray.certification.counts.store import Selected
from rsray.certification.engine.evaluation import Evaluation
from rsray.certification.folder import claim, finish
from rsray.config import CertifyConfig
from rsray.storage import Place
from rsray.storage.schemas import COUNTS, SOFT_COUNTS

CLASSES, SEEN, PARTS = 1000, 6, 300


def claimed(where, num_images, soft):
    settings = {"bound": "hoeffding", "n": 5000} if soft else {}
    config = CertifyConfig.make(
        {
            "source": "RUN", "model_digest": "d", "dataset": "imagenet", "model": "resnet50",
            "num_classes": CLASSES, "image_shape": (3, 224, 224), "sigma": 0.5, "limit": num_images,
            **settings,
        }
    )  # fmt: skip
    return claim(Place.of(where), config, Evaluation("cpu", "fp32", "channels_last", 8))


def selected(num_images):
    labels = np.random.default_rng(0).integers(0, CLASSES, num_images)
    return Selected(np.arange(num_images, dtype=np.int64), labels.astype(np.int64))


def part(images, labels, plan, rng):
    """Return the rows of all blocks of these images, the label's class far ahead."""
    sizes = [plan.n0, *map(plan.block_draws, range(plan.num_blocks))]
    rows = len(images) * len(sizes)
    draws_R = np.tile(sizes, len(images))
    label_R = np.repeat(labels, len(sizes))
    others = rng.integers(0, draws_R[:, None] // (4 * SEEN) + 1, (rows, SEEN - 1))
    counts = np.column_stack([draws_R - others.sum(1), others])
    classes = (label_R[:, None] + np.arange(SEEN)) % CLASSES
    order = classes.argsort(1)
    offsets = np.arange(0, rows * SEEN + 1, SEEN, dtype=np.int32)
    lists = [
        pa.ListArray.from_arrays(offsets, np.take_along_axis(each, order, 1).ravel().astype(kind))
        for each, kind in ((classes, np.int32), (counts, np.int64))
    ]
    columns = {
        "index": np.repeat(images, len(sizes)),
        "label": label_R.astype(np.int32),
        "stage": np.tile(["selection", *["estimation"] * plan.num_blocks], len(images)),
        "block": np.tile([0, *range(plan.num_blocks)], len(images)).astype(np.int32),
        "draws": draws_R.astype(np.int64),
        "classes": lists[0],
        "counts": lists[1],
    }
    return pa.table(columns, schema=COUNTS)


def soft_part(table, rng):
    """Return the rows with soft sums of all classes: near the counts of those that were seen."""
    rows, dense = len(table), rng.integers(1, 2**12, (len(table), CLASSES)) / 2**24
    counts = np.zeros(dense.shape, dtype=np.int64)
    seen = (np.repeat(np.arange(rows), SEEN), table["classes"].combine_chunks().flatten())
    counts[seen] = table["counts"].combine_chunks().flatten()
    offsets = np.arange(0, rows * CLASSES + 1, CLASSES, dtype=np.int32)
    lists = {
        "classes": np.tile(np.arange(CLASSES, dtype=np.int32), rows),
        "counts": counts.ravel(),
        "sums": (counts + dense).ravel(),
        "square_sums": (counts + dense).ravel() / 2,
    }
    columns = {name: pa.ListArray.from_arrays(offsets, each) for name, each in lists.items()}
    kept = {name: table[name] for name in COUNTS.names}
    return pa.table({**kept, **columns}, schema=SOFT_COUNTS)


def megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write(where, num_images, soft):
    run, chosen = claimed(where, num_images, soft), selected(num_images)
    rng = np.random.default_rng(1)
    for indices in np.array_split(chosen.indices, PARTS):
        table = part(indices, chosen.labels[indices], run.plan, rng)
        run.store.append(soft_part(table, rng) if soft else table)


def read(where, num_images, soft):
    before, run, chosen = megabytes(), claimed(where, num_images, soft), selected(num_images)
    started = time.perf_counter()
    gathered = gather(run.store, chosen, run.plan)
    assert gathered.is_complete(np.arange(num_images)).all()
    planned, plan_peak = time.perf_counter() - started, megabytes() - before
    started = time.perf_counter()
    summary = finish(run, gathered, seconds=1.0, failed={})
    assert summary["num_images"] == num_images and summary["acr"] > 0
    finished = time.perf_counter() - started
    print(json.dumps([planned, plan_peak, finished, megabytes() - before]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, nargs="+", default=[5_000, 50_000])
    parser.add_argument("--soft", action="store_true")
    parser.add_argument("--read", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        read(options.read, options.images[0], options.soft)
        return
    for num_images in options.images:
        with tempfile.TemporaryDirectory() as where:
            write(where, num_images, options.soft)
            command = [sys.executable, __file__, "--images", str(num_images), "--read", where]
            command += ["--soft"] if options.soft else []
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        planned, plan_peak, finished, peak = json.loads(answer)
        rows = num_images * (6 if options.soft else 101)
        print(
            f"{num_images:7,} images, {rows:10,} blocks stored: what is owed {planned:5.1f} s, "
            f"{plan_peak:6,.0f} MiB; certificates {finished:5.1f} s, {peak:6,.0f} MiB"
        )


if __name__ == "__main__":
    main()
