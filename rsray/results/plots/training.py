"""How trainings went: loss and noisy accuracy by epoch, a line per RUN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rsray.results.plots.style import Style, finish, look, new_figure, show_percent, text_of

PANELS = {"loss": "loss", "noisy_accuracy": "accuracy on noisy training images"}
NOTE = "Losses of different objectives are not comparable; accuracies are, at one sigma."


def draw(runs: Mapping[str, Sequence[Mapping[str, Any]]], style: Style) -> Figure:
    """Return the figure of the lines of metrics.jsonl of each RUN by its name."""
    style = style.with_note(NOTE) if len(runs) > 1 else style
    figure, panels = new_figure(style, panels=len(PANELS))
    for axes, (figure_name, title) in zip(panels, PANELS.items(), strict=True):
        for position, (name, rows) in enumerate(runs.items()):
            told = [row for row in rows if row.get(figure_name) is not None]
            axes.plot(
                [row["epoch"] + 1 for row in told], [row[figure_name] for row in told],
                # One epoch is no line.
                marker="o" if len(told) < 2 else "", label=text_of(name), linewidth=1.4,
                **look(position),
            )  # fmt: skip
        axes.set_xlabel("epoch")
        axes.set_ylabel(title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    show_percent(panels[1])
    return finish(figure, panels[0], style)
