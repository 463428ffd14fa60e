"""The ACR of each class, a row of dots per class: which ones are hard, and for which result."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from rsray.errors import UserError
from rsray.results.certificates import Certificates
from rsray.results.compare import by_class
from rsray.results.plots.style import COLOURS, MARKERS, Style, finish, new_figure, text_of

# Of more classes the hardest ones of the first result are drawn.
MOST_CLASSES = 30
NOTE = "Bars: two standard errors of the mean over the images of the class."
INCHES_PER_CLASS, INCHES_AROUND = 0.24, 1.1


def draw(results: Sequence[Certificates], style: Style) -> Figure:
    """Return the figure; UserError for a result without classes, or that has no ACR."""
    by_result = [_by_label(result) for result in results]
    names = {label: name for parts in reversed(by_result) for label, (name, _, _) in parts.items()}
    shown = sorted(names, key=lambda label: by_result[0].get(label, ("", math.inf, 0))[1])
    labels = sorted(shown[:MOST_CLASSES])
    chosen = f"The {len(labels)} hardest of {len(names)} classes. " * (len(labels) < len(names))
    style = style.with_note(chosen + NOTE)
    figure, (axes,) = new_figure(style)
    for position, parts in enumerate(by_result):
        # Dots of one class stand one below the other.
        offset = 0.6 * (position - (len(results) - 1) / 2) / max(len(results), 2)
        found = [(row, *parts[label][1:]) for row, label in enumerate(labels) if label in parts]
        # It may have none of the classes that are drawn.
        rows, acr, error = np.array(found, dtype=np.float64).reshape(-1, 3).T
        axes.errorbar(
            acr, rows + offset, xerr=2 * error, linestyle="",
            marker=MARKERS[position % len(MARKERS)], markersize=4, elinewidth=1,
            color=COLOURS[position % len(COLOURS)], label=text_of(results[position].name),
        )  # fmt: skip
    axes.set_yticks(range(len(labels)), [text_of(names[label]) for label in labels])
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel(r"ACR of the class ($\ell_2$, pixel values in [0, 1])")
    finish(figure, axes, style)
    if style.size is None:
        extra = max(0.0, INCHES_PER_CLASS * len(labels) + INCHES_AROUND - 3.6)
        figure.set_figheight(figure.get_figheight() + extra)
    return figure


def _by_label(result: Certificates) -> dict[int, tuple[str, float, float]]:
    """Return name, ACR and its standard error of each class."""
    if result.at_radius:
        raise UserError(f"{result.name} decided a few radii alone: it has no ACR")
    found = {}
    for part in by_class(result):
        label = int([*part.label, *part.failed_labels.values()][0])
        found[label] = (result.class_name(label), part.acr, part.acr_error or 0.0)
    return found
