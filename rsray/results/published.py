"""The papers' figures (the presets) as rows of a table and points of a plot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rsray.family import choose
from rsray.presets import Preset, presets
from rsray.results.certificates import Certificates
from rsray.results.table import COLUMNS, Row

NOTE = (
    "published rows are figures of the papers' tables, over the papers' own images, draws and "
    "alpha: `rsray presets NAME` says what is known of them"
)


def published_figures(dataset: str, results: Sequence[Certificates]) -> list[Preset]:
    """Return the presets with a published figure for a data set, at the sigmas of the results.

    All of its sigmas where no result says its own. UserError for a data set that has none.
    """
    known = [each for each in presets().values() if each.is_published and each.figure]
    choose(dataset, dict.fromkeys(str(each.settings["dataset"]) for each in known), "published")
    sigmas = {result.parameter("sigma") for result in results} - {None}
    return [
        each
        for each in known
        if each.settings["dataset"] == dataset and (not sigmas or each.settings["sigma"] in sigmas)
    ]


def row_of_preset(entry: Preset, radii: np.ndarray) -> Row:
    """Return the row of a published figure, with the digits of its table; NaN where it has none."""
    told = {round(radius, 6): share for radius, share in entry.certified.items()}
    accuracy = np.array([told.get(round(float(radius), 6), np.nan) for radius in radii])
    figures: dict[str, Any] = dict.fromkeys(COLUMNS)
    figures |= {
        "sigma": entry.settings["sigma"],
        "dataset": entry.settings["dataset"],
        "ACR": float(entry.acr) if entry.acr else None,
    }
    texts = {"ACR": entry.acr} if entry.acr else {}
    return Row(f"{entry.name} ({entry.source})", accuracy, figures, texts)
