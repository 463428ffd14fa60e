"""Certified accuracy by radius as a drawing to look into: pointed at, it tells its values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rsray.errors import printable
from rsray.results.certificates import Certificates
from rsray.results.plots import accuracy
from rsray.results.plots.style import look

# As many radii as a screen can tell apart.
MOST_RADII = 400
BLACK, INK = "#000000", "var(--ink)"


def curves_data(
    results: Sequence[Certificates], published: Mapping[str, accuracy.Points] | None = None
) -> dict[str, Any]:
    """Return the radii and each result's accuracy at them, None where it is not decided.

    Published figures are points, too.
    """
    named = published or {}
    radii = _radii(accuracy.largest_shown(results, named))
    has_bands = len(results) <= accuracy.MOST_BANDS
    curves = [_curve(each, position, radii, has_bands) for position, each in enumerate(results)]
    for position, (name, told) in enumerate(named.items(), start=len(results)):
        curves.append({**_look(name, position), **_points(sorted(told.items()), radii)})
    return {"radii": radii.tolist(), "curves": curves}


def _radii(largest: float) -> np.ndarray:
    """Return radii [R] from 0 to beyond the largest, at steps of 1, 2 or 5 times a power of ten."""
    rough = max(largest, 1e-6) / MOST_RADII
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    # Rounded: 282 * 0.001 lies above 0.282, and would leave out the images certified there.
    return np.round(np.arange(math.floor(largest / step) + 2) * step, 12)


def _curve(
    result: Certificates, position: int, radii: np.ndarray, has_band: bool
) -> dict[str, Any]:
    look = _look(result.name, position)
    if not result.at_radius:
        known = result.accuracy_at(radii)
        limits = accuracy.band(known, len(result.selected)) if has_band else ()
        band = [limit.round(4).tolist() for limit in limits]
        return {**look, "points": [], "accuracy": known.round(6).tolist(), "band": band}
    decided, accuracies = (each.tolist() for each in accuracy.points(result))
    return {**look, **_points(list(zip(decided, accuracies, strict=True)), radii)}


def _look(name: str, position: int) -> dict[str, Any]:
    colour, dash = look(position).values()
    return {
        "name": printable(name),
        "colour": INK if colour == BLACK else colour,
        "dash": "" if isinstance(dash, str) else " ".join(str(2 * part) for part in dash[1]),
    }


def _points(points: Sequence[tuple[float, float]], radii: np.ndarray) -> dict[str, Any]:
    """Return accuracies at a few radii alone, and where the drawing tells them."""
    shown: list[float | None] = [None] * len(radii)
    for radius, value in points:
        shown[round(radius / radii[1])] = value
    return {"points": list(points), "accuracy": shown}
