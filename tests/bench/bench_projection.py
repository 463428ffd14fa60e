"""How projected ACR (m draws an image) relates to certified ACR (n = 100,000) over ten models.

    uv run python tests/bench/bench_projection.py --data-root ../shared/data [--models 10] [--quick]

Models that differ in MACER's trade-off and in their epochs are trained, then certified on test
images; the projection looks at the SAME images, so what differs is the number of draws and the
selection of the class only. Prints each model when it is done, then markdown: both ACRs for each
model, the bias, its spread, and the rank correlations (Spearman, Kendall) with their p values.
Stopped, it goes on with the same --out. 20 minutes on 2 cores: k = 4 draws in training, 20 images.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.stats import kendalltau, spearmanr

from rsray.certification.networks.opening import open_source
from rsray.certification.request import CertificationRequest, selected_images
from rsray.config import CertifyConfig
from rsray.core.hardware import resolve_precision
from rsray.data import open_split
from rsray.distributed.certify.certifier import certify
from rsray.distributed.session import session
from rsray.distributed.train.trainer import train
from rsray.presets import train_config
from rsray.storage import Place
from rsray.training.run_folder.run import open_training_split
from rsray.training.validation import project_acr

TRADE_OFFS = (0.0, 0.5, 1.0, 2.0, 4.0)  # so few epochs learn nothing with larger ones
PRECISION = resolve_precision(None, torch.device("cpu"))  # as in a search
QUICK = {
    "limit": 2000, "epochs": 2, "models": 3, "draws": [16, 64], "n": 1000, "skip": 1000,
    "out": "bench-projection-quick",
}  # fmt: skip


def main():
    """Train, project and certify the models that are missing, and print the table."""
    options = _options()
    with session("local"):
        rows = []
        for number in range(options.models):
            rows.append(_measure(options, number))
            name, certified, *projected = rows[-1]
            figures = ", ".join(f"{value:.4f}" for value in projected)
            print(f"{name}: certified {certified:.4f}, projected {figures}", flush=True)
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
    parser.add_argument("--num-draws", type=int, default=4, help="k of MACER")
    parser.add_argument("--skip", type=int, default=500, help="certify every K-th test image")
    parser.add_argument("--out", default="bench-projection")
    parser.add_argument("--quick", action="store_true", help="a minute, to see that it runs")
    options = parser.parse_args()
    if options.quick:
        vars(options).update(QUICK)
    return options


def _measure(options, number):
    """Return [name, certified ACR, projected ACR for each m] of one model."""
    trade_off = TRADE_OFFS[number % len(TRADE_OFFS)]
    epochs = max(1, options.epochs - number // len(TRADE_OFFS))
    config = train_config(
        {
            "dataset": options.dataset, "data_root": options.data_root, "sigma": options.sigma,
            "limit": options.limit, "epochs": epochs, "trade_off": trade_off,
            "num_draws": options.num_draws,
        }
    )  # fmt: skip
    run = Place.of(Path(options.out) / f"model-{number}")
    train(config, run, open_training_split(config))
    source, split = open_source(str(run)), open_split(config.dataset, "test", config.data_root)
    settings = CertifyConfig.make(
        {
            "source": source.where, "model_digest": source.digest, "dataset": config.dataset,
            "model": source.model, "num_classes": split.num_classes, "image_shape": split.image_shape,
            "sigma": options.sigma,
            "n": options.n, "skip": options.skip, "precision": PRECISION, "sampling": "skip",
        }
    )  # fmt: skip
    selected = selected_images(settings, split)
    certified = certify(
        CertificationRequest(settings, source, split, selected), run / "certificates"
    )
    name = f"trade_off {trade_off:g}, {epochs} epochs"
    return [name, certified["acr"], *_project(options, source, split)]


def _project(options, source, split):
    model = source.build(split).eval()
    chosen = np.arange(0, len(split), options.skip)
    images, labels = torch.from_numpy(split.images(chosen)), torch.from_numpy(split.labels[chosen])
    return [
        project_acr(
            model, images, labels, sigma=options.sigma, precision=PRECISION, seed=0, num_draws=m
        ).acr
        for m in options.draws
    ]


if __name__ == "__main__":
    main()
