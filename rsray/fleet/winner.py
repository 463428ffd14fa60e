"""What follows a search: the winner and the paper's setting, trained at full length, certified."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from rsray.certification.source import ClassifierSource, open_source
from rsray.config import CertifyConfig, TrainConfig, TuneConfig, nest
from rsray.core.hardware import resolve_precision
from rsray.data import open_split
from rsray.fleet.certifier import certify, selected_images
from rsray.fleet.session import cluster_gpus
from rsray.fleet.space import Point, distributions, start_points
from rsray.fleet.trainer import train
from rsray.fleet.watch import Watch
from rsray.storage import Folder
from rsray.training.run import open_training_split

BEST_RUN, PAPER_RUN, CERTIFICATES = "best", "paper", "certificates"


class Finals(NamedTuple):
    """The summaries of the certificates; None for what was not asked for, or is the winner."""

    best: dict[str, Any] | None = None
    paper: dict[str, Any] | None = None


def full_config(config: TuneConfig, point: Point) -> TrainConfig:
    """Return the configuration that trains a point at full length on all training images."""
    flat = dict(point)
    if config.workers not in (None, config.train.workers):
        flat |= {"workers": config.workers, "most_workers": None}
    values = nest(flat, config.train.model_dump())
    return TrainConfig.make(values).resolved()


def paper_config(config: TuneConfig) -> TrainConfig:
    """Return the published setting in full, or the one that the search started from."""
    points = start_points(distributions(config.search), config.train)
    return full_config(config, points.get("paper", points.get("start", {})))


def train_and_certify(
    config: TuneConfig, best: TrainConfig, out: Folder, address: str | None, watch: Watch
) -> Finals:
    """Make TUNE/best with its certificates, and TUNE/paper on the same images unless it is best."""
    if not config.final:
        return Finals()
    winner = _finish(config, best, out / BEST_RUN, address, watch, "")
    paper = paper_config(config)
    if not config.compare or paper.identity() == best.identity():
        return Finals(winner)
    return Finals(winner, _finish(config, paper, out / PAPER_RUN, address, watch, " (paper)"))


def _finish(
    config: TuneConfig,
    wanted: TrainConfig,
    run: Folder,
    address: str | None,
    watch: Watch,
    tag: str,
) -> dict[str, Any]:
    watch.phase(f"train{tag}")
    train(wanted, run, open_training_split(wanted), address=address, on_progress=watch.training)
    watch.phase(f"certify{tag}")
    source = open_source(str(run))
    split = open_split(wanted.dataset, "test", wanted.data_root, image_size=wanted.image_size)
    settings = certify_config(config, wanted, source, split.num_classes)
    images = selected_images(settings, split)
    return certify(
        settings, run / CERTIFICATES, source, split, images, on_progress=watch.certifying
    )


def certify_config(
    config: TuneConfig, best: TrainConfig, source: ClassifierSource, num_classes: int
) -> CertifyConfig:
    """Return how a trained setting is certified."""
    device = torch.device("cuda" if cluster_gpus() > 0 else "cpu")
    return CertifyConfig.make(
        {
            "source": source.where,
            "model_digest": source.digest,
            "dataset": best.dataset,
            "data_root": best.data_root,
            "image_size": best.image_size,
            "model": best.model,
            "num_classes": num_classes,
            "sigma": best.sigma,
            "n": config.n,
            "skip": config.skip,
            "limit": config.limit,
            "seed": config.seed,
            "precision": resolve_precision(best.precision, device),
        }
    )
