"""The radius-accuracy curve: certified accuracy against l2 radius, a line per result."""

import io
import os
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator, PercentFormatter

from rsray import storage
from rsray.errors import UserError, printable
from rsray.results.certificates import Certificates
from rsray.storage import PathLike
from rsray.storage.address import printable_address

SUFFIXES = (".png", ".svg", ".pdf")
# Okabe and Ito's palette without its yellow, which is too faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 1.5, 1.5, 1.5)))
INK, FAINT = "#222222", "#d9d9d9"


def check_suffix(path: PathLike) -> str:
    """Return the suffix of a plot's file name; raises UserError for one that is not drawn."""
    suffix = os.path.splitext(printable_address(os.fspath(path)))[1].lower()
    if suffix not in SUFFIXES:
        raise UserError(f"cannot plot to {path}: the name must end in {', '.join(SUFFIXES)}")
    return suffix


def save_plot(results: Sequence[Certificates], path: PathLike) -> None:
    """Draw the results' curves into a file, complete or not at all; raises UserError by suffix."""
    suffix = check_suffix(path)
    storage.write_file(path, render(draw(results), suffix))


def render(figure: Figure, suffix: str) -> bytes:
    """Return a figure as .png, .svg or .pdf."""
    sink = io.BytesIO()
    # PDF: TrueType, as conferences ask. SVG: outlines, so that it looks the same everywhere.
    with matplotlib.rc_context({"pdf.fonttype": 42, "svg.fonttype": "path"}):
        figure.savefig(sink, format=suffix[1:], dpi=200)
    return sink.getvalue()


def draw(results: Sequence[Certificates]) -> Figure:
    """Return the figure of the results' curves, the size of a paper's column and a half."""
    figure = Figure(figsize=(6.0, 3.9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for position, result in enumerate(results):
        radius, accuracy = points(result) if result.at_radius else curve(result)
        axes.plot(
            radius,
            accuracy,
            drawstyle="steps-pre",
            color=COLOURS[position % len(COLOURS)],
            linestyle="" if result.at_radius else DASHES[position // len(COLOURS) % len(DASHES)],
            marker="o" if result.at_radius else "",
            linewidth=1.4,
            label=_label(result),
        )
    _style_axes(
        axes, widest=max(float(max(result.at_radius or result.radius)) for result in results)
    )
    _place_legend(figure, axes, results)
    return figure


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


def _label(result: Certificates) -> str:
    text = result.name if result.at_radius else f"{result.name} (ACR {result.acr:.3f})"
    # matplotlib reads what stands between two dollars as mathematics.
    return printable(text).replace("$", r"\$")


def _style_axes(axes: Axes, *, widest: float) -> None:
    axes.set_xlabel(r"$\ell_2$ radius (pixel values in [0, 1])", color=INK)
    axes.set_ylabel("certified accuracy", color=INK)
    axes.set_xlim(0.0, 1.03 * widest if widest > 0 else 1.0)
    # Room for the upper half of a line at 100 %.
    axes.set_ylim(0.0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))
    axes.yaxis.set_major_locator(MultipleLocator(0.2))
    axes.yaxis.set_minor_locator(MultipleLocator(0.1))
    axes.grid(True, which="both", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, pad=6, labelcolor=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(INK)


def _place_legend(figure: Figure, axes: Axes, results: Sequence[Certificates]) -> None:
    """Put the legend above the curves: no place inside is free of them for every set of results."""
    longest = max(len(_label(result)) for result in results)
    columns = 2 if len(results) > 1 and longest <= 40 else 1
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        labelcolor=INK,
        fontsize=9,
    )
    rows = -(-len(results) // columns)
    figure.set_figheight(3.6 + 0.2 * rows)
