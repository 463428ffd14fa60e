"""What certify, plan and predict are asked for: a classifier, its images, the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from rsray.certification.source import ClassifierSource
    from rsray.certification.store import Selected
    from rsray.config import CertifyConfig
    from rsray.data import ImageSplit


class Request(NamedTuple):
    """A certification that could be run."""

    config: CertifyConfig
    source: ClassifierSource
    split: ImageSplit
    selected: Selected


def open_classifier(
    source: str, *, split: str, download: bool, **known: Any
) -> tuple[ClassifierSource, ImageSplit]:
    """Return the classifier and its images; UserError when something is missing or does not fit."""
    from rsray.certification.data_check import fitted
    from rsray.certification.source import open_source
    from rsray.data import open_split

    found = open_source(source).given(**known).complete()
    assert found.dataset is not None
    images = open_split(
        found.dataset, split, found.data_root, image_size=found.image_size, download=download
    )
    images = fitted(images, found.trained, found.where)
    found.build(images)  # a checkpoint that does not fit is refused before anything starts
    return found, images


def certification(
    source: str,
    *,
    split: str,
    download: bool,
    known: dict[str, Any],
    skip: int | None,
    precision: str | None,
    actors: str | None,
    at_radius: list[str] | None,
    **settings: Any,
) -> Request:
    """Return the certification that the options describe; UserError for what is not allowed."""
    from rsray.config import SAMPLING, CertifyConfig
    from rsray.core.bounds import BOUNDS, check_settings
    from rsray.core.hardware import PRECISIONS
    from rsray.data import dataset_spec
    from rsray.distributed.certify.certifier import selected_images
    from rsray.family import choose

    choose(settings["bound"], BOUNDS, "bound")
    choose(settings["sampling"], SAMPLING, "sampling")
    if precision is not None:
        choose(precision, PRECISIONS, "precision")
    check_settings(settings["n"], settings["alpha"], settings["n0"], settings["bound"])
    radii, (fewest, most) = _radii(at_radius or []), _actors(actors)
    found, images = open_classifier(source, split=split, download=download, **known)
    assert found.dataset is not None
    values = {
        "source": source,
        "model_digest": found.digest,
        "dataset": found.dataset,
        "data_root": found.data_root,
        "image_size": found.image_size,
        "split": split,
        "model": found.model,
        "num_classes": images.num_classes,
        "sigma": found.sigma,
        "skip": skip if skip is not None else dataset_spec(found.dataset).skip,
        "precision": precision,
        "actors": fewest,
        "most_actors": most,
        "at_radius": radii,
    }
    config = CertifyConfig.make({**settings, **values})
    return Request(config, found, images, selected_images(config, images))


def _actors(text: str | None) -> tuple[int | None, int | None]:
    """Return the fewest and the most actors in "8" or "2-64"; UserError for anything else."""
    from rsray.errors import UserError

    if text is None or text == "auto":
        return None, None
    fewest, dash, most = text.partition("-")
    numbers = [fewest, most] if dash else [fewest]
    if not all(part.isdecimal() for part in numbers) or not 1 <= int(fewest) <= int(numbers[-1]):
        raise UserError(f"actors is {text}: it must be auto, a number from 1, or a range as 2-64")
    return int(fewest), int(most) if dash else None


def _radii(texts: list[str]) -> list[float]:
    """Return the radii in texts such as "0.25,0.5", ascending; UserError for one that is none."""
    from rsray.errors import UserError

    parts = [part for text in texts for part in text.replace(",", " ").split()]
    try:
        radii = sorted({float(part) for part in parts})
    except ValueError as problem:
        raise UserError(
            f"at-radius {' '.join(texts)!r} is no list of radii, for example 0.25,0.5"
        ) from problem
    if radii and not (radii[0] >= 0 and radii[-1] < float("inf")):
        raise UserError(f"at-radius is {radii[0]:g}: radii are finite and at least 0")
    return radii
