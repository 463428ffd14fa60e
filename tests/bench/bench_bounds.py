"""Time of the decision: counts of many images to certificates, by bound.

    uv run python tests/bench/bench_bounds.py [--images 1000000] [--classes 1000] [--seen 10]

Counts are drawn for images from easy to hard: the top class, and `seen` others as a power law.
"""

import argparse
import time

import numpy as np

from rsray.core.bounds.tcertify import certify_tcertify
from rsray.core.counts import ClassCounts
from rsray.core.decide import Moments, certify_hard, certify_soft

N0, N = 100, 100_000
LEVELS = {"sigma": 0.5, "alpha": 0.001}


def counts(p_NS, draws, classes, rng):
    """Return the counts of `draws` draws, the s-th class of image i being (7i + s) mod K."""
    counts_NS = rng.multinomial(draws, p_NS)
    num_images, seen = p_NS.shape
    class_NS = (7 * np.arange(num_images)[:, None] + np.arange(seen)) % classes
    order = class_NS.argsort(axis=1)
    class_NS, counts_NS = (np.take_along_axis(each, order, 1) for each in (class_NS, counts_NS))
    kept = counts_NS > 0
    offsets = np.concatenate(([0], np.cumsum(kept.sum(axis=1))))
    return ClassCounts(offsets, class_NS[kept], counts_NS[kept])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--seen", type=int, default=10)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    p_N = rng.beta(4.0, 1.2, options.images)
    shares = 1.0 / np.arange(1, options.seen + 1) ** 1.5
    p_NS = np.column_stack([p_N, (1 - p_N)[:, None] * shares / shares.sum()])
    selection, estimation = (counts(p_NS, draws, options.classes, rng) for draws in (N0, N))
    del p_NS
    halves = ClassCounts(estimation.offsets, estimation.classes_E, estimation.counts_E / 2)
    moments = Moments(selection, estimation, halves, estimation, estimation.totals())
    ways = {
        "clopper-pearson": lambda: certify_hard(selection, estimation, **LEVELS),
        "tcertify": lambda: certify_tcertify(
            selection, estimation, **LEVELS, num_classes=options.classes
        ),
        "bernstein": lambda: certify_soft(moments, **LEVELS, bound="bernstein"),
    }
    for name, certify in ways.items():
        started = time.perf_counter()
        decision = certify()
        seconds = time.perf_counter() - started
        share = np.mean(decision.radius > 0)
        print(f"{name:16} {options.images:,} images: {seconds:6.2f} s, {share:.0%} certified")


if __name__ == "__main__":
    main()
