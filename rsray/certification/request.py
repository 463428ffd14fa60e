"""What certify, plan and predict are asked for: a classifier, its images, the settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from rsray import data
from rsray.certification.counts.store import Selected
from rsray.certification.data_check import fitted
from rsray.certification.networks.opening import open_denoiser, open_source
from rsray.certification.networks.source import KNOWN, ClassifierSource
from rsray.certification.reuse import EarlierCertification, open_earlier
from rsray.config import MOST_SIGMA, READING, CertifyConfig, PredictConfig
from rsray.core import NOISES
from rsray.data import DATASETS, ImageSplit, selected
from rsray.data.fingerprint import fingerprint
from rsray.errors import UserError
from rsray.storage.address import addresses_in, is_ensemble


class CertificationRequest(NamedTuple):
    """A certification that could be run."""

    config: CertifyConfig
    source: ClassifierSource
    split: ImageSplit
    selected: Selected
    # Whose counts are used again.
    earlier: EarlierCertification | None = None

    def announcement(self, where: str) -> str:
        """Return in a line what will be certified, and what is put before the network."""
        config = self.config
        kind = "training images" if config.split == "train" else "images"
        return (
            f"certifying {len(self.selected.indices):,} {kind} of {config.dataset}"
            f"{' spread evenly over them' if config.is_spread else ''}, sigma {config.sigma:g}, "
            f"n {config.n:,}, alpha {config.alpha:g}, normalisation {self.source.normalisation} "
            f"-> {where}"
        )


class PredictionRequest(NamedTuple):
    """Predictions that could be made."""

    config: PredictConfig
    source: ClassifierSource
    split: ImageSplit
    indices: np.ndarray
    seed: int
    precision: str | None


def open_certification(
    source: str, given: Mapping[str, Any], *, download: bool = False
) -> CertificationRequest:
    """Return the certification that settings describe; UserError for what is not allowed.

    Settings that are not given are those of the RUN, then the defaults; without a precision, bf16
    where the actors' hardware computes it, else fp16 on a GPU.
    """
    source, given = _named_by_model(source, given)
    earlier = open_earlier(str(given["reuse"])) if given.get("reuse") else None
    given = given if earlier is None else earlier.settings(given)
    # What can be refused before files are read.
    settings = CertifyConfig.make({**_PLACEHOLDERS, **given})
    _refuse_unused(settings)
    found, split = open_classifier(source, given, download=download)
    config = CertifyConfig.make(
        {
            "precision": None,
            "is_spread": _is_spread(given),
            "skip": DATASETS[str(found.dataset)].skip,
            **given,
            **found.identity(),
            "source": source,
            **carried(found, split),
        }
    )
    # A sigma that it cannot make is refused here
    NOISES[config.noise].of(config.sigma)
    if earlier is not None:
        earlier.check(config)
        earlier = earlier.with_source(config, split)
    return CertificationRequest(config, found, split, selected_images(config, split), earlier)


def _refuse_unused(settings: CertifyConfig) -> None:
    """Raise UserError for a setting that has no effect beside the others."""
    if settings.inverse_temperature != 1 and not settings.soft:
        raise UserError(
            f"inverse-temperature is {settings.inverse_temperature:g}, but the bound "
            f"{settings.bound} counts classes, whatever it is: choose bound hoeffding or bernstein"
        )
    usual = CertifyConfig.model_fields["tolerance"].default
    if settings.tolerance != usual and settings.sampling != "adaptive":
        raise UserError(
            f"tolerance is {settings.tolerance:g}, but sampling {settings.sampling} draws as many "
            f"whatever it is: choose sampling adaptive, or leave tolerance at {usual}"
        )


# Stand for what only the files can say.
_PLACEHOLDERS: dict[str, Any] = {
    "source": "", "model_digest": "", "dataset": "", "model": "a:b", "num_classes": 2,
    "sigma": MOST_SIGMA,
}  # fmt: skip


def open_prediction(
    source: str, given: Mapping[str, Any], *, download: bool = False
) -> PredictionRequest:
    """Return the predictions that settings describe; UserError for what is not allowed."""
    source, given = _named_by_model(source, given)
    own = {key: value for key, value in given.items() if key in PredictConfig.model_fields}
    config = PredictConfig.make(own)
    # A prediction selects its images, and takes its precision, as a certification does.
    rest = {key: value for key, value in given.items() if key not in own}
    images = CertifyConfig.make({**_PLACEHOLDERS, "precision": None, **rest})
    found, split = open_classifier(source, rest, download=download)
    skip = images.skip if "skip" in rest else DATASETS[str(found.dataset)].skip
    spread = _is_spread(rest)
    indices = selected(len(split), images.start, skip, images.limit, is_spread=spread)
    return PredictionRequest(config, found, split, indices, images.seed, images.precision)


def _named_by_model(source: str, given: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return source and settings of `--model ensemble:RUN,RUN,...`, given with one of its RUNs."""
    model = str(given.get("model"))
    if not is_ensemble(model):
        return source, given
    if source not in addresses_in(model):
        raise UserError(
            f"model is {model}: {source} is none of its members; give it in {source}'s place"
        )
    return model, {key: value for key, value in given.items() if key != "model"}


def carried(source: ClassifierSource, split: ImageSplit) -> dict[str, Any]:
    """Return what a certification records of its classes, its images and the training data."""
    known = source.trained.get("data_fingerprint") or {}
    return {
        "num_classes": split.num_classes,
        "classes": split.classes,
        "image_shape": split.image_shape,
        "data_fingerprint": {key: value for key, value in known.items() if key != "sample"},
        "images_fingerprint": fingerprint(split, sampled=False),
    }


def _is_spread(given: Mapping[str, Any]) -> bool:
    """Tell whether a limit is given alone."""
    return "limit" in given and "start" not in given and "skip" not in given


def open_classifier(
    source: str, given: Mapping[str, Any], *, download: bool
) -> tuple[ClassifierSource, ImageSplit]:
    """Return the classifier and its images; UserError when something is missing or does not fit."""
    known = {key: given[key] for key in KNOWN if given.get(key) is not None}
    if "model_args" in known:
        asked = {**_PLACEHOLDERS, "model_args": known["model_args"]}
        known["model_args"] = CertifyConfig.make(asked).model_args
    found = open_source(source)
    if known.get("dataset", found.dataset) != found.dataset:
        found = found.of_other_data()
    found = found.given(**known, normalise=given.get("normalisation")).complete()
    assert found.dataset is not None
    denoiser = open_denoiser(given["denoiser"]) if given.get("denoiser") else None
    split = data.open_split(
        found.dataset,
        str(given.get("split", "test")),
        found.data_root,
        download=download,
        **{name: getattr(found, name) for name in READING},
    )
    for where, trained in [*found.trainings, *(denoiser.trainings if denoiser else [])]:
        split = fitted(split, trained, where)
    # A checkpoint that does not fit is refused before anything starts.
    found = found.settled(split)
    return (found.behind(denoiser, split) if denoiser else found), split


def selected_images(config: CertifyConfig, split: ImageSplit) -> Selected:
    """Return the images that --start, --skip and --limit select."""
    indices = selected(
        len(split), config.start, config.skip, config.limit, is_spread=config.is_spread
    )
    return Selected(indices, np.asarray(split.labels)[indices])
