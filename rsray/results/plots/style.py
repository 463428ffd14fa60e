"""What all plots share: colours, axes, legend and title, footnotes, and the files they become."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from rsray import storage
from rsray.errors import UserError, printable
from rsray.storage import PathLike
from rsray.storage.address import check_suffix

SUFFIXES = (".png", ".svg", ".pdf")
# Okabe and Ito's palette without its yellow, which is too faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 1.5, 1.5, 1.5)))
MARKERS = "osD^v<>"
INK, FAINT = "#222222", "#d9d9d9"
WIDTH, HEIGHT = 6.0, 3.6
LEGEND_POINTS, NOTE_POINTS = 9.0, 7.0
# A letter's mean width and a line's height, as parts of the size of the letters.
LETTER, LINE = 0.53, 1.3
POINTS_PER_INCH = 72


@dataclass(frozen=True, kw_only=True)
class Style:
    """How a figure is drawn beside what it shows."""

    title: str = ""
    # Width and height in inches; None leaves room for legend and notes around a usual plot.
    size: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()

    def with_note(self, note: str) -> Style:
        """Return the style with one more note, before the others."""
        return replace(self, notes=(note, *self.notes))


def save(figure: Figure, path: PathLike) -> None:
    """Write a figure into a file, complete or not at all; raises UserError by suffix."""
    storage.write_file(path, render(figure, check_suffix(path, SUFFIXES)))


def render(figure: Figure, suffix: str) -> bytes:
    """Return a figure as .png, .svg or .pdf."""
    sink = io.BytesIO()
    # PDF: TrueType, as conferences ask. SVG: outlines, so that it looks the same everywhere.
    outlined = matplotlib.rc_context({"pdf.fonttype": 42, "svg.fonttype": "path"})
    with outlined, warnings.catch_warnings():
        warnings.filterwarnings("error", message="constrained_layout not applied")
        try:
            figure.savefig(sink, format=suffix[1:], dpi=200)
        except UserWarning as problem:
            size = "x".join(f"{inches:g}" for inches in figure.get_size_inches())
            raise UserError(
                f"a plot of {size} inches has no room beside its title, legend and notes: give a "
                "larger --size"
            ) from problem
    return sink.getvalue()


def new_figure(style: Style, *, panels: int = 1) -> tuple[Figure, list[Axes]]:
    """Return an empty figure with its axes from left to right."""
    figure = Figure(figsize=style.size or (WIDTH, HEIGHT), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def look(position: int) -> dict[str, Any]:
    """Return colour and dashes of the line of a result; they repeat after 28."""
    colour = COLOURS[position % len(COLOURS)]
    return {"color": colour, "linestyle": DASHES[position // len(COLOURS) % len(DASHES)]}


def show_percent(axes: Axes) -> None:
    """Let the vertical axis show fractions in percent; the upper half of a line at 100 % fits."""
    axes.set_ylim(0.0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))


def text_of(name: str) -> str:
    """Return somebody's text as matplotlib shows it: with dollars that are no formula."""
    return printable(name).replace("$", r"\$")


def _style_axes(axes: Axes) -> None:
    """Give axes a faint grid and no frame but the two axes."""
    axes.grid(True, which="both", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, pad=6, labelcolor=INK)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(INK)


def finish(figure: Figure, axes: Axes, style: Style) -> Figure:
    """Put title and legend above the plot and the notes below, and return the figure.

    No place inside the axes is free for every set of results.
    """
    for each in figure.axes:
        _style_axes(each)
    handles, labels = axes.get_legend_handles_labels()
    columns = 2 if len(labels) > 1 and max(map(len, labels)) <= 40 else 1
    rows = -(-len(labels) // columns)
    if labels or style.title:
        figure.legend(
            handles,
            labels,
            loc="outside upper left",
            ncols=columns,
            frameon=False,
            labelcolor=INK,
            fontsize=LEGEND_POINTS,
            title=text_of(style.title) or None,
            title_fontproperties={"size": 11, "weight": "bold"},
            alignment="left",
        )
    lines = _wrapped(style.notes, figure.get_figwidth())
    below = NOTE_POINTS * LINE * len(lines) / POINTS_PER_INCH
    if style.size is None:
        figure.set_figheight(HEIGHT + 0.2 * rows + (0.3 if style.title else 0) + below)
    if lines:
        share = min(0.5, (below + 0.06) / figure.get_figheight())
        figure.get_layout_engine().set(rect=(0, share, 1, 1 - share))  # type: ignore[union-attr, call-arg]
        figure.text(
            0.01, 0.01, "\n".join(lines),
            fontsize=NOTE_POINTS, color=INK, va="bottom", ha="left", linespacing=LINE,
        )  # fmt: skip
    return figure


def _wrapped(notes: Sequence[str], width_inches: float) -> list[str]:
    letters = int(0.97 * width_inches * POINTS_PER_INCH / (NOTE_POINTS * LETTER))
    return [text_of(line) for note in notes for line in textwrap.wrap(printable(note), letters)]
