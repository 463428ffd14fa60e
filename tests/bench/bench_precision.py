"""Whether bf16 training loses certified radius: projected ACR of bf16 and fp32, seed by seed.

    uv run python tests/bench/bench_precision.py --data-root R [--seeds 3] [--objective macer]

LeNet on MNIST at sigma 0.5. Every network is judged in float32, on the same held-out images, so that
only the training differs. The spread over seeds says how large a difference would have to be.
"""

import argparse
import statistics
import time

import torch

from rsray.presets import train_config
from rsray.training.loop import Training
from rsray.training.step import AutocastNetwork


def acr(precision, seed, options):
    config = train_config(
        {
            "dataset": "mnist", "data_root": options.data_root, "objective": options.objective,
            "sigma": 0.5, "epochs": options.epochs, "limit": options.limit, "seed": seed,
            "precision": precision, "validation": 0.1, "batch_size": 64,
        }
    )  # fmt: skip
    training = Training(config, None, torch.device("cpu"))
    started = time.perf_counter()
    training.run_epochs()
    seconds = time.perf_counter() - started
    training.precision = "fp32"
    training.network = AutocastNetwork(training.model, "fp32")
    return training.project_acr(options.num_draws).acr, seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-root")
    parser.add_argument("--objective", default="gaussian")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--limit", type=int, default=10_000)
    parser.add_argument("--num-draws", type=int, default=512)
    options = parser.parse_args()
    found = {"fp32": [], "bf16": []}
    for seed in range(options.seeds):
        for precision, values in found.items():
            value, seconds = acr(precision, seed, options)
            values.append(value)
            print(
                f"seed {seed} {precision}: projected ACR {value:.4f}, trained in {seconds:.0f} s",
                flush=True,
            )
    pairs = zip(found["bf16"], found["fp32"], strict=True)
    differences = [a - b for a, b in pairs]
    print(
        f"{options.objective}: bf16 - fp32 = {statistics.mean(differences):+.4f} on average; "
        f"standard deviation over seeds {statistics.stdev(found['fp32']):.4f} (fp32), "
        f"{statistics.stdev(found['bf16']):.4f} (bf16)"
    )


if __name__ == "__main__":
    main()
