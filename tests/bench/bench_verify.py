"""Time of `rsray verify`: a made CERT of many images and blocks, computed again.

uv run python tests/bench/bench_verify.py [--images 10000] [--blocks 100] [--bound tcertify]
"""

import argparse
import tempfile
import time

import numpy as np
import pyarrow as pa

from rsray.certification.checks.verify import verify
from rsray.certification.counts.gathering import gather
from rsray.certification.counts.store import Selected
from rsray.certification.counts.tables import counts_table
from rsray.certification.engine.evaluation import Evaluation
from rsray.certification.folder import claim, finish
from rsray.config import CertifyConfig
from rsray.storage import Place

CLASSES, PER_PART = 10, 500


def make(folder, options):
    """Write a finished CERT of made counts."""
    config = CertifyConfig.make(
        {
            "source": "RUN", "model_digest": "d", "dataset": "digits", "model": "lenet",
            "num_classes": CLASSES, "image_shape": (1, 8, 8), "sigma": 0.5, "n": options.blocks * 1000, "bound": options.bound,
        }
    )  # fmt: skip
    claimed = claim(folder, config, Evaluation("cpu", "fp32", "contiguous", 8))
    rng, tables = np.random.default_rng(0), []
    p_NK = rng.dirichlet(np.r_[8.0, np.full(CLASSES - 1, 0.05)], options.images)
    blocks = [(block, 1000) for block in range(options.blocks)]
    for index, p_K in enumerate(p_NK):
        pilot, counts = rng.multinomial(100, p_K, 1), rng.multinomial(1000, p_K, options.blocks)
        tables.append(counts_table(index, 0, "selection", [(0, 100)], pilot))
        tables.append(counts_table(index, 0, "estimation", blocks, counts))
        if len(tables) >= 2 * PER_PART or index == options.images - 1:
            claimed.store.append(pa.concat_tables(tables))
            tables = []
    selected = Selected(np.arange(options.images), np.zeros(options.images, dtype=np.int64))
    started = time.perf_counter()
    gathered = gather(claimed.store, selected, claimed.plan)
    finish(claimed, gathered, seconds=1.0, failed={})
    return time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--blocks", type=int, default=100)
    parser.add_argument("--bound", default="clopper-pearson")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Place.of(folder) / "cert"
        finished = make(place, options)
        started = time.perf_counter()
        print(verify(place))
        seconds = time.perf_counter() - started
    print(f"{seconds:.1f} s; the certificates themselves took {finished:.1f} s")


if __name__ == "__main__":
    main()
