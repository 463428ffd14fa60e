"""The papers' table: a row per result, certified accuracy at growing radii, then its figures.

An image that failed counts 0 everywhere; where there is one, a column says how many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from rsray.core.radius import round_down
from rsray.errors import UserError, printable
from rsray.family import choose
from rsray.results.audited import audit_text
from rsray.results.certificates import Certificates
from rsray.results.formats import UNKNOWN, Table
from rsray.results.summary import largest_certifiable_radius

MOST_COLUMNS = 100
RADII, RESULT = "radii", "result"


class Column(NamedTuple):
    """One figure of a result: its titles, how it is printed, and when it is shown unasked."""

    latex: str
    spec: str
    figure: Callable[[Certificates], Any]
    # Whether it stands in every table, or only where some result has it.
    is_always_shown: bool = False
    is_better_larger: bool = False


def _of_whole(figure: Callable[[Certificates], Any]) -> Callable[[Certificates], Any]:
    """Return the figure; None of a run that decided a few radii alone, which has no such figure."""
    return lambda result: None if result.at_radius else figure(result)


def _parameter(name: str) -> Callable[[Certificates], Any]:
    return lambda result: result.parameter(name)


# `radii` stands for a column of certified accuracy at each radius.
COLUMNS: dict[str, Column] = {
    "sigma": Column(r"$\sigma$", "sigma", _parameter("sigma"), True),
    RADII: Column("", "%", lambda result: None, True, True),
    "ACR": Column("ACR", ".3f", _of_whole(lambda result: result.acr), True, True),
    "error": Column(r"$\pm$", ".3f", _of_whole(lambda result: result.acr_error)),
    "clean": Column("Clean", "%", _of_whole(lambda r: float(r.outcomes[1].mean())), False, True),
    "abstained": Column("Abstained", "d", _of_whole(lambda result: result.abstained)),
    "images": Column("Images", "d", lambda result: len(result.selected), True),
    "failed": Column("Failed", "d", lambda result: len(result.failed) or None),
    "n0": Column("$n_0$", "d", _parameter("n0")),
    "n": Column("$n$", "d", _parameter("n"), True),
    "alpha": Column(r"$\alpha$", "g", _parameter("alpha"), True),
    "bound": Column("Bound", "s", _parameter("bound")),
    "noise": Column("Noise", "s", _parameter("noise")),
    "dataset": Column("Data", "s", _parameter("dataset")),
    "draws": Column("Draws", ",d", lambda result: result.draws),
    "seconds": Column("Seconds", ",.0f", _parameter("seconds")),
    "audit": Column("Audit", "s", lambda result: audit_text(result.metadata.get("audit"))),
}
ONLY_WHEN_ASKED = ("clean", "n0", "bound", "noise", "dataset")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a table shows and in which order; the defaults are the papers'."""

    step: float = 0.25
    # In place of 0, step, 2 step, ...
    radii: tuple[float, ...] = ()
    columns: tuple[str, ...] = ()
    sort: str | None = None
    title: str = ""
    # What stands below the table in every format.
    notes: tuple[str, ...] = ()
    # Whether the best of each column is marked.
    marks_best: bool = True


@dataclass(frozen=True)
class Row:
    """One result's figures by column; accuracy holds fractions [R], NaN where there is none."""

    name: str
    accuracy: np.ndarray
    figures: Mapping[str, Any]
    # Figures that are shown with the digits of their source.
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ReportTable(Table):
    """A row per result over common radii [R]."""

    radii: np.ndarray
    radius_labels: list[str]


def build(results: Sequence[Certificates], layout: Layout | None = None) -> ReportTable:
    """Return the table of results at radii 0, step, 2 step ... up to the largest certifiable one.

    Results that decided some radii alone (at-radius) add these, and have figures at no others.
    Raises UserError for a step that is not positive or gives more than 100 columns, and for a
    column that is unknown.
    """
    layout = layout or Layout()
    radii = shown_radii(results, layout)
    return of_rows([row_of(result, radii) for result in results], radii, layout)


def of_rows(rows: Sequence[Row], radii: np.ndarray, layout: Layout) -> ReportTable:
    """Return the table of rows whose accuracies are at these radii [R].

    Its values are fractions, its texts percent; everything is rounded to nearest.
    """
    if any(row.figures.get("failed") for row in rows):
        rows = [replace(r, figures={**r.figures, "failed": r.figures["failed"] or 0}) for r in rows]
    columns, labels = _columns(rows, radii, layout), _radius_labels(radii)
    titles = [*chain.from_iterable(labels if name == RADII else [name] for name in columns)]
    header = [RESULT, *titles]
    values = [_values(row, columns) for row in rows]
    if layout.sort is not None:
        order = _order(header, values, layout.sort)
        rows, values = [rows[i] for i in order], [values[i] for i in order]
    texts = [_texts(row, titles, known) for row, known in zip(rows, values, strict=True)]
    return ReportTable(
        header=header,
        rows=values,
        texts=texts,
        best=_best(titles, values, texts) if layout.marks_best else (),
        title=layout.title,
        caption=_caption(rows, radii, columns),
        notes=layout.notes,
        latex_head=_latex_head(columns, titles, len(radii)),
        radii=radii,
        radius_labels=labels,
    )


def _columns(rows: Sequence[Row], radii: np.ndarray, layout: Layout) -> tuple[str, ...]:
    """Return the columns that are asked for, or those that are usual for such rows."""
    columns = tuple(choose(name.strip(), COLUMNS, "column") for name in layout.columns)
    if len(set(columns)) < len(columns):
        raise UserError(f"columns {','.join(columns)} names a column twice")
    is_shown = {
        name: column.is_always_shown or any(row.figures.get(name) is not None for row in rows)
        for name, column in COLUMNS.items()
    }
    usual = [name for name in COLUMNS if is_shown[name] and name not in ONLY_WHEN_ASKED]
    if len(radii) and radii[0] > 0 and any(row.figures["clean"] is not None for row in rows):
        usual.insert(usual.index("ACR"), "clean")
    return columns or tuple(usual)


def _radius_labels(radii: np.ndarray) -> list[str]:
    """Return the radii, never rounded up, with as many decimals as they have: two to nine."""
    decimals = max([2, *(len(f"{r:.9f}".rstrip("0").partition(".")[2]) for r in radii)])
    return [f"{r:.{decimals}f}" for r in round_down(radii, decimals)]


def _values(row: Row, columns: Sequence[str]) -> list[Any]:
    accuracy = [None if np.isnan(a) else float(a) for a in row.accuracy]
    parts = (accuracy if name == RADII else [row.figures[name]] for name in columns)
    return [row.name, *chain.from_iterable(parts)]


def _texts(row: Row, titles: list[str], values: list[Any]) -> list[str]:
    figures = zip(titles, values[1:], strict=True)
    return [row.name, *(row.texts.get(t, _shown(value, _column(t).spec)) for t, value in figures)]


def _column(title: str) -> Column:
    """Return the column of a title, which is its name or a radius."""
    return COLUMNS.get(title, COLUMNS[RADII])


def _best(
    titles: list[str], values: list[list[Any]], texts: list[list[str]]
) -> set[tuple[int, int]]:
    """Return the (row, column) of the best figures, all those that are printed alike."""
    found: set[tuple[int, int]] = set()
    for at, title in enumerate(titles if len(values) > 1 else (), start=1):
        known = [(row[at], i) for i, row in enumerate(values) if row[at] is not None]
        if _column(title).is_better_larger and known and max(known)[0] > 0:
            top = texts[max(known)[1]][at]
            found |= {(i, at) for i, row in enumerate(texts) if row[at] == top}
    return found


def _caption(rows: Sequence[Row], radii: np.ndarray, columns: Sequence[str]) -> str:
    text = "certified accuracy in % at each l2 radius"
    text += " (0: clean accuracy)" if 0.0 in radii else ""
    text += "; images in [0, 1]"
    if any(row.figures["ACR"] is None for row in rows):
        text += f"; {UNKNOWN}: not decided (at-radius) or not published"
    return text + ("; images that failed count 0" if "failed" in columns else "")


def _latex_head(columns: Sequence[str], titles: list[str], num_radii: int) -> tuple[str, ...]:
    """Return the lines between the upper rules: one title spans all radii."""
    shown = (COLUMNS[each].latex if each in COLUMNS else each for each in titles)
    head = " & ".join(["Result", *shown]) + r" \\"
    if RADII not in columns:
        return (head,)
    before = columns.index(RADII)
    after = " &" * (len(columns) - before - 1)
    spanned = rf"\multicolumn{{{num_radii}}}{{c}}{{Certified accuracy (\%) at $\ell_2$ radius}}"
    rule = rf"\cmidrule(lr){{{before + 2}-{before + num_radii + 1}}}"
    return rf"{' &' * (before + 1)} {spanned}{after} \\", rule, head


def shown_radii(
    results: Sequence[Certificates], layout: Layout, *, reach: float = 0.0
) -> np.ndarray:
    """Return the radii [R] of a table of results, and of published figures up to `reach`."""
    if layout.radii:
        return np.array(layout.radii)
    curves = [result for result in results if not result.at_radius]
    radii = _steps(max([reach, *map(largest_certifiable_radius, curves)]), layout.step)
    asked = [radius for result in results for radius in result.at_radius]
    return np.union1d(radii if curves or reach else [], asked)


def _steps(largest: float, step: float) -> np.ndarray:
    if not (math.isfinite(step) and step > 0 and largest / step < MOST_COLUMNS):
        raise UserError(
            f"radii step {step} is not allowed; it must be above {largest / MOST_COLUMNS:.3g}, "
            f"for at most {MOST_COLUMNS} columns"
        )
    # Rounded: 3 * 0.1 lies above 0.3, and would leave out the images certified at 0.3 exactly.
    radii: np.ndarray = np.round(np.arange(math.floor(largest / step + 1e-9) + 1) * step, 6)
    return radii


def row_of(result: Certificates, radii: np.ndarray) -> Row:
    """Return a result's row."""
    accuracy = result.accuracy_at(radii)
    if result.at_radius:
        accuracy[~np.isin(radii, result.at_radius)] = np.nan
    figures = {name: column.figure(result) for name, column in COLUMNS.items()}
    return Row(printable(result.name), accuracy, figures)


def _order(header: list[str], values: list[list[Any]], by: str) -> list[int]:
    """Return the rows' order by a column: names upwards, figures downwards, the unknown last."""
    at = header.index(choose(by, header, "column to sort by"))
    known = [i for i, row in enumerate(values) if row[at] is not None]
    has_names = any(isinstance(values[i][at], str) for i in known)
    order = sorted(known, key=lambda i: values[i][at], reverse=not has_names)
    return order + [i for i, row in enumerate(values) if row[at] is None]


def _shown(value: Any, spec: str) -> str:
    if value is None:
        return UNKNOWN
    if spec == "%":
        return f"{100 * value:.1f}"
    if spec == "sigma":
        # 0.50 as the papers print it, and 0.125 in full.
        return f"{value:.2f}" if round(value, 2) == value else f"{value:g}"
    return printable(format(str(value) if spec == "s" else value, spec))
