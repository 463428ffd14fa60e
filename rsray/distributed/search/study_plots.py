"""A search in pictures: history, importance, slices, Pareto front, the curves of a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter

from rsray.distributed.search.resolved_search import GIVEN
from rsray.results.plots.style import COLOURS, FAINT, INK

# Of trials, as study.trial_rows gives them.
Rows = Sequence[dict[str, Any]]
LABELS = {
    "projected_acr": "projected ACR",
    "clean_accuracy": "clean accuracy (smoothed)",
}
BLUE, ORANGE, GREEN, PINK = COLOURS[:4]
MOST_COLUMNS = 3


def draw_history(rows: Rows, metric: str) -> Figure:
    """Draw each trial's value by its number, the best so far, and the published setting's."""
    figure, (axes,) = _new_figure(1)
    _plot_trials(axes, rows, "number", metric)
    best = float("-inf")
    steps: list[tuple[int, float]] = []
    for row in _in_state(rows, "complete"):
        best = max(best, row[metric])
        steps.append((row["number"], best))
    if steps:
        steps.append((max(row["number"] for row in rows), best))
        axes.plot(
            *zip(*steps, strict=True), drawstyle="steps-post", color=BLUE, label="best so far"
        )
    for row in rows:
        if row["source"] in GIVEN and row["state"] == "complete":
            name = "published setting" if row["source"] == "paper" else "setting to start from"
            axes.axhline(row[metric], color=ORANGE, linestyle=(0, (5, 2)), label=name, zorder=1)
            break
    failed = [row["number"] for row in rows if row["state"] == "fail"]
    if failed:
        bottom = axes.get_ylim()[0]
        axes.plot(failed, [bottom] * len(failed), "x", color=PINK, label="failed", clip_on=False)
    axes.set(xlabel="trial", ylabel=LABELS[metric])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _add_legend(figure, axes)
    return figure


def draw_importance(shares: dict[str, float], metric: str) -> Figure:
    """Draw which part of the variance of the results each setting explains (fANOVA)."""
    figure, (axes,) = _new_figure(1, height=1.2 + 0.4 * len(shares))
    names = sorted(shares, key=lambda name: shares[name])
    bars = axes.barh(names, [shares[name] for name in names], color=BLUE, height=0.6)
    axes.bar_label(bars, fmt="%.2f", padding=4, color=INK)
    axes.set_xlim(0, max(shares.values()) * 1.15 or 1)
    axes.set_xlabel(f"importance for the {LABELS[metric]}")
    return figure


def draw_slices(rows: Rows, metric: str, keys: Sequence[str], log: Sequence[str]) -> Figure:
    """Draw the results against each setting on its own, `log` settings on logarithmic axes."""
    figure, grid = _new_figure(len(keys))
    for place, (axes, key) in enumerate(zip(grid, keys, strict=True)):
        _plot_trials(axes, rows, key, metric, log=key in log)
        axes.set_xlabel(key)
        if place % MOST_COLUMNS == 0:
            axes.set_ylabel(LABELS[metric])
    _add_legend(figure, grid[0])
    return figure


def draw_pareto(rows: Rows, metrics: Sequence[str]) -> Figure:
    """Draw two objectives against each other, and the trials that none beats in both."""
    figure, (axes,) = _new_figure(1)
    x, y = metrics[1], metrics[0]
    complete = _in_state(rows, "complete")
    behind = [row for row in complete if not row["pareto"]]
    front = sorted((row for row in complete if row["pareto"]), key=lambda row: row[x])
    axes.plot([r[x] for r in behind], [r[y] for r in behind], "o", color=FAINT, label="trial")
    axes.plot([r[x] for r in front], [r[y] for r in front], "o-", color=BLUE, label="Pareto front")
    for row in front:
        axes.annotate(
            str(row["number"]), (row[x], row[y]), xytext=(5, 4), textcoords="offset points",
            color=INK, fontsize=8,
        )  # fmt: skip
    axes.set(xlabel=LABELS[x], ylabel=LABELS[y])
    _add_legend(figure, axes)
    return figure


def draw_grid(rows: Rows, metric: str, keys: Sequence[str]) -> Figure:
    """Draw a grid: results against its first setting, a line for each combination of the rest."""
    figure, (axes,) = _new_figure(1)
    first, rest = keys[0], keys[1:]
    lines: dict[str, list[dict[str, Any]]] = {}
    for row in _in_state(rows, "complete"):
        name = ", ".join(f"{key} {show_setting(row[key])}" for key in rest)
        lines.setdefault(name, []).append(row)
    order = list(dict.fromkeys(show_setting(row[first]) for row in rows))
    axes.set_xticks(range(len(order)), order)
    for place, (name, line) in enumerate(lines.items()):
        at = sorted((order.index(show_setting(row[first])), row[metric]) for row in line)
        dash: Any = "-" if place < len(COLOURS) else (0, (5, 2))
        colour = COLOURS[place % len(COLOURS)]
        axes.plot(*zip(*at, strict=True), marker="o", color=colour, linestyle=dash, label=name)
    axes.set(xlabel=first, ylabel=LABELS[metric])
    if rest:
        _add_legend(figure, axes)
    return figure


def show_setting(value: Any) -> str:
    """Return a setting as text, numbers with three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _in_state(rows: Rows, state: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["state"] == state]


def _plot_trials(axes: Axes, rows: Rows, key: str, metric: str, *, log: bool = False) -> None:
    """Plot trials: filled when complete, hollow when stopped early, the best one as a star."""
    rows = [row for row in rows if row[key] is not None and row[metric] is not None]
    log = log and bool(rows)
    is_number = all(isinstance(row[key], int | float) for row in rows)
    levels = list(dict.fromkeys(str(row[key]) for row in rows))

    def at(row: dict[str, Any]) -> Any:
        return row[key] if is_number else levels.index(str(row[key]))

    if log:
        axes.set_xscale("log")
        values = [row[key] for row in rows]
        axes.xaxis.set_major_locator(
            LogLocator(subs=(1, 3) if max(values) < 99 * min(values) else (1,))
        )
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    if not is_number:
        axes.set_xticks(range(len(levels)), levels)
    complete, pruned = _in_state(rows, "complete"), _in_state(rows, "pruned")
    for some, face, label in ((pruned, "none", "stopped early"), (complete, BLUE, "complete")):
        if some:
            axes.plot(
                [at(row) for row in some], [row[metric] for row in some], "o",
                markerfacecolor=face, markeredgecolor=BLUE, label=label,
            )  # fmt: skip
    if complete:
        best = max(complete, key=lambda row: row[metric])
        axes.plot([at(best)], [best[metric]], "*", color=GREEN, markersize=14, label="best")


def _new_figure(count: int, *, height: float = 3.2) -> tuple[Figure, list[Axes]]:
    """Return a figure of `count` panels, at most three a row."""
    columns = min(count, MOST_COLUMNS)
    lines = -(-count // MOST_COLUMNS)
    width = 6.0 if count == 1 else 2.6 * columns
    figure = Figure(figsize=(width, height * lines), layout="constrained")
    FigureCanvasAgg(figure)
    panels = [figure.add_subplot(lines, columns, place + 1) for place in range(count)]
    for axes in panels:
        axes.grid(True, color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(which="both", length=0, pad=6, labelcolor=INK)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return figure, panels


def _add_legend(figure: Figure, axes: Axes) -> None:
    """Put the legend above the panels, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper left", ncols=4, frameon=False, fontsize=9,
        labelcolor=INK,
    )  # fmt: skip
