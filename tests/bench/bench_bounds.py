"""Time of the decision: counts of many images to certificates, by bound.

    uv run python tests/bench/bench_bounds.py [--images 1000000] [--seen 10]

Counts are drawn for images from easy to hard: the top class, and `seen` others as a power law.
"""

import argparse
import time
from dataclasses import replace

import numpy as np

from rsray.core.bounds import BOUNDS
from rsray.core.evidence import Evidence

N0, N = 100, 100_000
LEVELS = {"sigma": 0.5, "alpha": 0.001}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--seen", type=int, default=10)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    p_N = rng.beta(4.0, 1.2, options.images)
    shares = 1.0 / np.arange(1, options.seen + 1) ** 1.5
    p_NS = np.column_stack([p_N, (1 - p_N)[:, None] * shares / shares.sum()])
    selection, estimation = (rng.multinomial(draws, p_NS) for draws in (N0, N))
    sums = estimation[:, 0].astype(float)
    evidence = replace(Evidence.of_counts(selection, estimation), sums=sums, square_sums=sums / 2)
    for name, bound in BOUNDS.items():
        started = time.perf_counter()
        decision = bound.decide(evidence, **LEVELS)
        seconds = time.perf_counter() - started
        share = np.mean(decision.radius > 0)
        print(f"{name:16} {options.images:,} images: {seconds:6.2f} s, {share:.0%} certified")


if __name__ == "__main__":
    main()
