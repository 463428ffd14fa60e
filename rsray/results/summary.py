"""summary.json: one result condensed to the figures that papers print."""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from rsray import storage
from rsray.core.radius import largest_radius
from rsray.results.certificates import Certificates
from rsray.storage import PathLike
from rsray.storage.records import from_json, read_as

SUMMARY_STEP = 0.25
SUMMARY_END = 4.0


class Summary(BaseModel):
    """What is used of summary.json; None where it is unknown."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    num_images: int = Field(ge=0)
    acr: float = Field(ge=0)
    draws: int | None = Field(None, ge=0)
    draws_per_second: float | None = Field(None, ge=0)
    seconds: float | None = Field(None, ge=0)
    failed: dict[str, str] = {}
    classes: list[str] | None = None
    at_radius: dict[str, float] | list[float] = {}
    undecided: int = Field(0, ge=0)


def read_summary(path: PathLike) -> dict[str, Any]:
    """Return what a summary.json says; UserError for a file that is none."""
    found: dict[str, Any] = from_json(storage.read_file(path), str(path))
    read_as(Summary, found, str(path))
    return found


def summarise(certificates: Certificates, *, extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of summary.json.

    Every figure is over all `num_selected` images; one that failed, and is named under `failed`,
    counts 0. `extra` holds `seconds` (wall-clock time of the sampling, None where unknown) unless
    the metadata does, and may replace `draws` and `draws_per_second`. What else it and the metadata
    hold is added.
    """
    known = {**certificates.metadata, **extra}
    draws, seconds = known.get("draws", certificates.draws), known["seconds"]
    _, correct = certificates.outcomes
    summary = {
        "num_images": len(certificates),
        "num_selected": len(correct),
        "failed": {str(index): why for index, why in certificates.failed.items()},
        "acr": certificates.acr,
        "acr_standard_error": certificates.acr_error,
        "certified_accuracy": accuracy_by_radius(certificates),
        "clean_accuracy": float(np.mean(correct)),
        "abstained": certificates.abstained,
        "skipped": int(np.sum(certificates.skipped)),
        "largest_certifiable_radius": largest_certifiable_radius(certificates),
    }
    speed = draws / seconds if draws is not None and seconds else None
    return {"draws": draws, "draws_per_second": speed, **known, **summary}


def write_summary(path: PathLike, summary: Mapping[str, Any]) -> None:
    """Write summary.json, complete or not at all."""
    text = json.dumps(dict(summary), indent=2, allow_nan=False)
    storage.write_file(path, (text + "\n").encode())


def accuracy_by_radius(certificates: Certificates) -> dict[str, float]:
    """Return certified accuracy at 0.00, 0.25 ... 4.00, up to the largest certifiable radius."""
    largest = min(largest_certifiable_radius(certificates), SUMMARY_END)
    at = np.arange(math.floor(largest / SUMMARY_STEP) + 1) * SUMMARY_STEP
    accuracy = certificates.accuracy_at(at)
    return {f"{r:.2f}": float(a) for r, a in zip(at, accuracy, strict=True)}


def largest_certifiable_radius(certificates: Certificates) -> float:
    """Return the l2 radius of an image whose n draws all hit: sigma * Phi^-1(alpha^(1/n)).

    This is Clopper-Pearson's; a randomized bound may go beyond, the others do not. Where sigma, n
    or alpha is unknown, the largest radius seen.
    """
    sigma, n, alpha = (certificates.parameter(name) for name in ("sigma", "n", "alpha"))
    seen = float(certificates.radius.max(initial=0.0))
    if sigma is None or n is None or alpha is None:
        return seen
    return max(seen, largest_radius(float(sigma), int(n), float(alpha)))
