"""Whether the search pays: `rsray tune` against random search, and against the published setting.

    uv run python tests/bench/bench_tune.py --data-root ../shared/data [--out bench-tune]

MNIST at sigma 0.50 with a small budget a trial: the same number of trials, epochs and images for
TPE and for random search, ASHA with both. Prints markdown: the best projected ACR after every few
trials (mean and range over the seeds), the epochs that were trained for it, and what the best
setting projects beside the published one at the same number of epochs. A search that was
interrupted goes on with the same --out.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from rsray.config import TuneConfig
from rsray.fleet.space import parse_space
from rsray.fleet.tuner import tune
from rsray.presets import train_config
from rsray.storage import Folder

SAMPLERS = ("tpe", "random")


def main():
    """Run the searches that are missing and print the tables."""
    options = _options()
    rows = {
        (sampler, seed): _search(options, sampler, seed)
        for sampler in SAMPLERS
        for seed in range(options.seeds)
    }
    print(f"\n{_described(options)}\n")
    _print_curves(options, rows)
    _print_against_published(options, rows)


def _options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--data-root")
    parser.add_argument("--sigma", type=float, default=0.5)
    parser.add_argument("--limit", type=int, default=6000, help="training images")
    parser.add_argument("--epochs", type=int, default=3, help="of a trial")
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--num-draws", type=int, default=16, help="k of MACER")
    parser.add_argument("--out", default="bench-tune")
    return parser.parse_args()


def _search(options, sampler, seed):
    """Return the rows of one search's trials, in the order of proposal."""
    base = train_config(
        {
            "dataset": options.dataset, "data_root": options.data_root, "sigma": options.sigma,
            "limit": options.limit, "epochs": options.epochs, "num_draws": options.num_draws,
        }
    )  # fmt: skip
    config = TuneConfig.make(
        {
            "train": base, "search": parse_space([], base.objective), "sampler": sampler,
            "trials": options.trials, "seed": seed, "report_every": 1, "final": False,
        }
    )  # fmt: skip
    place = Path(options.out) / f"{sampler}-{seed}"
    tune(config, Folder.of(place))
    return sorted(pq.read_table(place / "trials.parquet").to_pylist(), key=lambda r: r["number"])


def _best(rows):
    """Return the best projected ACR of complete trials after each trial."""
    values = [row["projected_acr"] if row["state"] == "complete" else -np.inf for row in rows]
    return np.maximum.accumulate(values)


def _described(options):
    return (
        f"{options.dataset}, sigma {options.sigma:g}, {options.limit} images, {options.epochs} "
        f"epochs a trial, k = {options.num_draws}; projected ACR on held-out images; "
        f"mean (least to most) over {options.seeds} seeds"
    )


def _print_curves(options, rows):
    counts = sorted({*range(5, options.trials + 1, 5), options.trials})
    print(
        "| best projected ACR after | " + " | ".join(f"{c} trials" for c in counts) + " | epochs |"
    )
    print("|---" * (len(counts) + 2) + "|")
    for sampler in SAMPLERS:
        searches = [rows[sampler, seed] for seed in range(options.seeds)]
        curves = np.stack([_best(search) for search in searches])
        cells = [
            f"{curves[:, c - 1].mean():.4f} ({curves[:, c - 1].min():.4f} to {curves[:, c - 1].max():.4f})"
            for c in counts
        ]
        epochs = np.mean([sum(row["epoch"] or 0 for row in search) for search in searches])
        print(f"| {sampler} | {' | '.join(cells)} | {epochs:.0f} |")


def _print_against_published(options, rows):
    print("\n| search | seed | published setting | best found | gain | best setting |")
    print("|---|---|---|---|---|---|")
    for (sampler, seed), search in rows.items():
        paper = next(row for row in search if row["source"] in ("paper", "start"))
        best = max(
            (row for row in search if row["state"] == "complete"), key=lambda r: r["projected_acr"]
        )
        keys = ("trade_off", "hinge", "inverse_temperature")
        setting = ", ".join(f"{key} {best[key]:.3g}" for key in keys)
        gain = best["projected_acr"] - paper["projected_acr"]
        print(
            f"| {sampler} | {seed} | {paper['projected_acr']:.4f} | {best['projected_acr']:.4f} "
            f"| {gain:+.4f} | {setting} |"
        )


if __name__ == "__main__":
    main()
