"""What follows a search: the winner and the paper's setting, trained at full length, certified."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from rsray.certification.data_check import fitted
from rsray.certification.request import carried, selected_images
from rsray.certification.source import ClassifierSource, open_source
from rsray.config import CertifyConfig, TrainConfig, TuneConfig, nest
from rsray.core.hardware import resolve_precision
from rsray.data import ImageSplit, open_split
from rsray.distributed.certify.certifier import certify
from rsray.distributed.search.space import Point, published_settings, settings_of
from rsray.distributed.train.trainer import train
from rsray.progress import Watch
from rsray.storage import Place
from rsray.training.run import open_training_split

BEST_RUN, PAPER_RUN, CERTIFICATES = "best", "paper", "certificates"


class Finals(NamedTuple):
    """The summaries of the certificates; None for what was not asked for, or is the winner.

    `paper` is of the published setting, where there is one: else of the one searched from.
    """

    best: dict[str, Any] | None = None
    paper: dict[str, Any] | None = None
    is_published: bool = False  # whether there is a published setting for this search
    won: bool = False  # whether it, or the one searched from, is the winner itself

    @property
    def rival(self) -> str:
        """What the winner is compared with, in words."""
        return "published setting" if self.is_published else "setting that the search started from"


def full_config(config: TuneConfig, point: Point) -> TrainConfig:
    """Return the configuration that trains a point at full length on all training images."""
    flat = {**settings_of(point, config.train), "validation": 0.0}
    if config.workers not in (None, config.train.workers):
        flat |= {"workers": config.workers, "most_workers": None}
    values = nest(flat, config.train.model_dump())
    return TrainConfig.make(values).resolved()


def paper_config(config: TuneConfig) -> TrainConfig:
    """Return the published setting in full, or the one that the search started from.

    The published one is all of the paper's, whether or not a trial could have it.
    """
    return full_config(config, published_settings(config.train))


def train_and_certify(
    config: TuneConfig, best: TrainConfig, out: Place, address: str | None, watch: Watch
) -> Finals:
    """Make TUNE/best with its certificates, and TUNE/paper on the same images unless it is best."""
    paper = paper_config(config)
    finals = Finals(
        is_published=bool(published_settings(config.train)),
        won=paper.identity() == best.identity(),
    )
    if not config.final:
        return finals
    finals = finals._replace(best=_finish(config, best, out / BEST_RUN, address, watch, ""))
    if not config.compare or finals.won:
        return finals
    tag = " (paper)" if finals.is_published else " (start)"
    return finals._replace(paper=_finish(config, paper, out / PAPER_RUN, address, watch, tag))


def _finish(
    config: TuneConfig,
    wanted: TrainConfig,
    run: Place,
    address: str | None,
    watch: Watch,
    tag: str,
) -> dict[str, Any]:
    watch.phase(f"train{tag}")
    train(wanted, run, open_training_split(wanted), address=address, on_progress=watch.training)
    watch.phase(f"certify{tag}")
    source = open_source(str(run))
    split = open_split(wanted.dataset, "test", wanted.data_root, **wanted.reading)
    split = fitted(split, source.trained, str(run))
    settings = certify_config(config, wanted, source, split)
    images = selected_images(settings, split)
    return certify(
        settings, run / CERTIFICATES, source, split, images, on_progress=watch.certifying
    )


def certify_config(
    config: TuneConfig, best: TrainConfig, source: ClassifierSource, split: ImageSplit
) -> CertifyConfig:
    """Return how a trained setting is certified."""
    return CertifyConfig.make(
        {
            "source": source.where,
            "model_digest": source.digest,
            "dataset": best.dataset,
            "data_root": best.data_root,
            **best.reading,
            "model": best.model,
            **carried(source, split),
            "sigma": best.sigma,
            "n": config.n,
            "skip": config.skip,
            "is_spread": config.limit is not None,
            "limit": config.limit,
            "seed": config.seed,
            "precision": best.precision,
        }
    )


def cluster_precision(precision: str | None, gpus: float) -> str:
    """Return the precision asked for, or the one that workers on `gpus` GPUs each choose."""
    device = torch.device("cuda" if gpus else "cpu")
    if precision is not None or not gpus or torch.cuda.is_available():
        return resolve_precision(precision, device)
    import ray

    # This machine, a cluster's head as a rule, has no GPU to ask.
    ask = ray.remote(num_gpus=min(gpus, 1))(resolve_precision)
    found: str = ray.get(ask.remote(precision, device))
    return found
