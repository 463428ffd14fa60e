"""How projected ACR (m draws an image) relates to certified ACR (n = 100,000) over ten models.

    uv run python tests/bench/bench_projection.py --data-root ../shared/data [--models 10]

Models that differ in MACER's trade-off and in their epochs are trained, then certified on test
images; the projection looks at the SAME images, so what differs is the number of draws and the
selection of the class only. Prints markdown: both ACRs for each model, the bias, its spread, and
the rank correlations (Spearman, Kendall) with their p values.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.stats import kendalltau, spearmanr

from rsray.certification.source import open_source
from rsray.config import CertifyConfig
from rsray.data import open_split
from rsray.fleet.certifier import certify, selected_images
from rsray.fleet.session import session
from rsray.fleet.trainer import train
from rsray.presets import train_config
from rsray.storage import Folder
from rsray.training.run import open_training_split
from rsray.training.validation import project

TRADE_OFFS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


def main():
    """Train, project and certify the models that are missing, and print the table."""
    options = _options()
    with session("local"):
        rows = [_measure(options, number) for number in range(options.models)]
    draws = options.draws
    print(f"\n| model | certified (n = {options.n}) | {' | '.join(f'm = {m}' for m in draws)} |")
    print("|---" * (len(draws) + 2) + "|")
    for name, certified, *projected in rows:
        print(f"| {name} | {certified:.4f} | {' | '.join(f'{p:.4f}' for p in projected)} |")
    certified = np.array([row[1] for row in rows])
    print("\n| m | bias (projected - certified) | its spread | Spearman | Kendall |")
    print("|---|---|---|---|---|")
    for place, m in enumerate(draws):
        projected = np.array([row[2 + place] for row in rows])
        off, rank = projected - certified, spearmanr(projected, certified)
        tau = kendalltau(projected, certified)
        print(
            f"| {m} | {off.mean():+.4f} | {off.std():.4f} | {rank.statistic:.3f} "
            f"(p = {rank.pvalue:.2g}) | {tau.statistic:.3f} (p = {tau.pvalue:.2g}) |"
        )


def _options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--data-root")
    parser.add_argument("--sigma", type=float, default=0.5)
    parser.add_argument("--limit", type=int, default=6000, help="training images")
    parser.add_argument("--epochs", type=int, default=3, help="of the longest training")
    parser.add_argument("--models", type=int, default=10)
    parser.add_argument("--draws", type=int, nargs="+", default=[64, 256, 1024], help="m")
    parser.add_argument("--n", type=int, default=100_000)
    parser.add_argument("--skip", type=int, default=50, help="certify every K-th test image")
    parser.add_argument("--out", default="bench-projection")
    return parser.parse_args()


def _measure(options, number):
    """Return [name, certified ACR, projected ACR for each m] of one model."""
    trade_off = TRADE_OFFS[number % len(TRADE_OFFS)]
    epochs = max(1, options.epochs - number // len(TRADE_OFFS))
    config = train_config(
        {
            "dataset": options.dataset, "data_root": options.data_root, "sigma": options.sigma,
            "limit": options.limit, "epochs": epochs, "trade_off": trade_off,
        }
    )  # fmt: skip
    run = Folder.of(Path(options.out) / f"model-{number}")
    train(config, run, open_training_split(config))
    source, split = open_source(str(run)), open_split(config.dataset, "test", config.data_root)
    settings = CertifyConfig.make(
        {
            "source": source.where, "model_digest": source.digest, "dataset": config.dataset,
            "model": source.model, "num_classes": split.num_classes, "sigma": options.sigma,
            "n": options.n, "skip": options.skip, "precision": "fp32",
        }
    )  # fmt: skip
    selected = selected_images(settings, split)
    certified = certify(settings, run / "certificates", source, split, selected)
    name = f"trade_off {trade_off:g}, {epochs} epochs"
    return [name, certified["acr"], *_project(options, source, split)]


def _project(options, source, split):
    model = source.build(split).eval()
    chosen = np.arange(0, len(split), options.skip)
    images, labels = torch.from_numpy(split.images(chosen)), torch.from_numpy(split.labels[chosen])
    return [
        project(
            model, images, labels, sigma=options.sigma, precision="fp32", seed=0, num_draws=m
        ).acr
        for m in options.draws
    ]


if __name__ == "__main__":
    main()
