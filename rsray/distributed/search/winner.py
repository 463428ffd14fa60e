"""What follows a search: the winner and the paper's setting, trained at full length, certified."""

from __future__ import annotations

from typing import Any, NamedTuple

from rsray.certification.data_check import fitted
from rsray.certification.networks.opening import open_source
from rsray.certification.networks.source import ClassifierSource
from rsray.certification.request import CertificationRequest, carried, selected_images
from rsray.config import CertifyConfig, TrainConfig
from rsray.data import ImageSplit, open_split
from rsray.distributed.certify.certifier import certify
from rsray.distributed.search.resolved_search import BEST_RUN, Search
from rsray.distributed.train.trainer import train
from rsray.progress import Watch
from rsray.storage import Place
from rsray.training.run_folder.run import open_training_split

PAPER_RUN, CERTIFICATES = "paper", "certificates"


class Finals(NamedTuple):
    """The summaries of the certificates; None for what was not asked for, or is the winner.

    `paper` is of the published setting, where there is one: else of the one searched from.
    """

    best: dict[str, Any] | None = None
    paper: dict[str, Any] | None = None
    # Whether there is a published setting for this search, and whether it (or the one searched
    # from) is the winner itself.
    is_published: bool = False
    won: bool = False

    @property
    def rival(self) -> str:
        """What the winner is compared with, in words."""
        return "published setting" if self.is_published else "setting that the search started from"


def train_and_certify(
    search: Search, best: TrainConfig, out: Place, address: str | None, watch: Watch
) -> Finals:
    """Make TUNE/best with its certificates, and TUNE/paper on the same images unless it is best."""
    paper, is_published = search.paper, bool(search.published)
    # Both start from the same weights, or they are not the same.
    won = paper.identity() == best.identity() and paper.init == best.init
    finals = Finals(is_published=is_published, won=won)
    if not search.config.final:
        return finals
    summary = _train_and_certify_one(search, best, out / BEST_RUN, address, watch)
    finals = finals._replace(best=summary)
    if not search.config.compare or finals.won:
        return finals
    tag = " (paper)" if is_published else " (start)"
    summary = _train_and_certify_one(search, paper, out / PAPER_RUN, address, watch, tag)
    return finals._replace(paper=summary)


def _train_and_certify_one(
    search: Search,
    wanted: TrainConfig,
    run: Place,
    address: str | None,
    watch: Watch,
    tag: str = "",
) -> dict[str, Any]:
    watch.phase(f"train{tag}")
    train(wanted, run, open_training_split(wanted), address=address, on_progress=watch.training)
    watch.phase(f"certify{tag}")
    split = open_split(wanted.dataset, "test", wanted.data_root, **wanted.reading)
    source = open_source(str(run)).given(data_root=wanted.data_root, model=wanted.model)
    split = fitted(split, source.trained, str(run))
    source = source.settled(split)
    settings = certify_config(search, wanted, source, split)
    request = CertificationRequest(settings, source, split, selected_images(settings, split))
    return certify(
        request,
        run / CERTIFICATES,
        address=address,
        on_progress=watch.certifying,
        say=watch.say,
    )


def certify_config(
    search: Search, trained: TrainConfig, source: ClassifierSource, split: ImageSplit
) -> CertifyConfig:
    """Return how a trained setting is certified."""
    own = ("n", "skip", "limit", "seed")
    return CertifyConfig.make(
        {
            "source": source.where,
            **source.identity(),
            **carried(source, split),
            "is_spread": search.config.limit is not None,
            "precision": trained.precision,
            "gpus_per_actor": 0.0 if trained.gpus_per_worker == 0 else None,
            **{name: getattr(search.config, name) for name in own},
        }
    )
