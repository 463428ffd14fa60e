"""The radius-accuracy curve: certified accuracy against l2 radius, a line per result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator
from scipy import stats

from rsray.results.certificates import Certificates
from rsray.results.plots.style import (
    COLOURS,
    MARKERS,
    Style,
    finish,
    look,
    new_figure,
    show_percent,
    text_of,
)

LEVEL = 0.05
# Bands of more results than these hide each other.
MOST_BANDS = 4
BANDS = "Bands: 95 % confidence of each point, over the choice of images."
# A published figure: its accuracy by radius.
Points = Mapping[float, float]


def draw(
    results: Sequence[Certificates],
    style: Style | None = None,
    *,
    published: Mapping[str, Points] | None = None,
) -> Figure:
    """Return the figure of the results' curves; published figures are points."""
    style, published = style or Style(), published or {}
    has_bands = len(results) <= MOST_BANDS
    if has_bands and results:
        style = style.with_note(BANDS)
    figure, (axes,) = new_figure(style)
    for position, result in enumerate(results):
        _draw_result(axes, result, position, has_band=has_bands)
    for position, (name, points) in enumerate(published.items(), start=len(results)):
        marker = MARKERS[position % len(MARKERS)]
        colour = COLOURS[position % len(COLOURS)]
        axes.plot(
            *zip(*sorted(points.items()), strict=True),
            linestyle="", marker=marker, markersize=4, color=colour, label=text_of(name),
        )  # fmt: skip
    axes.set_xlabel(r"$\ell_2$ radius (pixel values in [0, 1])")
    axes.set_ylabel("certified accuracy")
    axes.set_xlim(0.0, 1.03 * largest_shown(results, published) or 1.0)
    show_percent(axes)
    axes.yaxis.set_major_locator(MultipleLocator(0.2))
    axes.yaxis.set_minor_locator(MultipleLocator(0.1))
    return finish(figure, axes, style)


def largest_shown(results: Sequence[Certificates], published: Mapping[str, Points]) -> float:
    """Return the largest radius that any of them reaches; 0 of none."""
    reached = [float(max(each.at_radius or each.radius, default=0.0)) for each in results]
    return max([*reached, *(max(points) for points in published.values())], default=0.0)


def _draw_result(axes: Axes, result: Certificates, position: int, *, has_band: bool) -> None:
    shown, name = look(position), result.name
    if result.at_radius:
        radius, accuracy = points(result)
        shown["linestyle"] = ""
        low, high = band(accuracy, len(result.selected))
        if has_band:
            around = np.stack([accuracy - low, high - accuracy])
            axes.errorbar(radius, accuracy, around, fmt="none", color=shown["color"], linewidth=1)
    else:
        name = f"{name} (ACR {result.acr:.3f})"
        radius, accuracy = curve(result)
        if has_band:
            low, high = band(accuracy, len(result.selected))
            # The last corner, of 0, is a drop and no estimate.
            axes.fill_between(
                radius[:-1], low[:-1], high[:-1],
                step="pre", color=shown["color"], alpha=0.15, linewidth=0,
            )  # fmt: skip
    axes.plot(
        radius,
        accuracy,
        drawstyle="steps-pre",
        marker="o" if result.at_radius else "",
        linewidth=1.4,
        label=text_of(name),
        **shown,
    )


def curve(result: Certificates) -> tuple[np.ndarray, np.ndarray]:
    """Return radii [R] and certified accuracy [R] at them: the corners of the exact step function.

    Between two corners the accuracy is that of the right one. The last corner comes twice, the
    second time with 0.
    """
    radii, counts = np.unique(result.radius[result.correct], return_counts=True)
    num_selected = len(result.selected)
    accuracy = np.cumsum(counts[::-1])[::-1] / num_selected
    at_zero = np.sum(counts) / num_selected
    last = radii[-1] if len(radii) else 0.0
    return np.concatenate([[0.0], radii, [last]]), np.concatenate([[at_zero], accuracy, [0.0]])


def points(result: Certificates) -> tuple[np.ndarray, np.ndarray]:
    """Return the radii [R] that a run with at-radius decided, and its accuracy [R] at them."""
    radii = np.array(result.at_radius)
    return radii, result.accuracy_at(radii)


def band(accuracy: np.ndarray, num_images: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the exact 95 % confidence limits [R] of accuracies [R] over so many images."""
    hits = np.rint(accuracy * num_images)
    low = stats.beta.ppf(LEVEL / 2, hits, num_images - hits + 1)
    high = stats.beta.ppf(1 - LEVEL / 2, hits + 1, num_images - hits)
    return np.where(hits > 0, low, 0.0), np.where(hits < num_images, high, 1.0)
