"""The papers' table: a row per result, certified accuracy at growing radii, then its figures.

An image that failed counts 0 everywhere; where there is one, a column says how many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from rsray.core.radius import acr_standard_error, round_down
from rsray.errors import UserError, printable
from rsray.family import choose
from rsray.results.audited import audit_text
from rsray.results.certificates import Certificates
from rsray.results.formats import UNKNOWN
from rsray.results.summary import largest_certifiable_radius

DEFAULT_STEP = 0.25
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


def _error(result: Certificates) -> float | None:
    error = acr_standard_error(*result.outcomes)
    return error if math.isfinite(error) else None


# `radii` stands for a column of certified accuracy at each radius.
COLUMNS: dict[str, Column] = {
    "sigma": Column(r"$\sigma$", "sigma", _parameter("sigma"), True),
    RADII: Column("", "%", lambda result: None, True, True),
    "ACR": Column("ACR", ".3f", _of_whole(lambda result: result.acr), True, True),
    "error": Column(r"$\pm$", ".3f", _of_whole(_error)),
    "clean": Column("Clean", "%", _of_whole(lambda r: float(r.outcomes[1].mean())), False, True),
    "abstained": Column("Abstained", "d", lambda result: result.abstained),
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

    step: float = DEFAULT_STEP
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


@dataclass(frozen=True)
class ReportTable:
    """Rows over common radii [R]."""

    radii: np.ndarray
    rows: tuple[Row, ...]
    columns: tuple[str, ...]
    layout: Layout = field(default_factory=Layout)

    @property
    def title(self) -> str:
        """What the table is called; may be empty."""
        return self.layout.title

    @property
    def notes(self) -> tuple[str, ...]:
        """What stands below it."""
        return self.layout.notes

    @property
    def radius_labels(self) -> list[str]:
        """The radii, never rounded up, with as many decimals as they have: two to nine."""
        decimals = max([2, *(len(f"{r:.9f}".rstrip("0").partition(".")[2]) for r in self.radii)])
        return [f"{r:.{decimals}f}" for r in round_down(self.radii, decimals)]

    @property
    def header(self) -> list[str]:
        """The column titles."""
        return [RESULT, *self._across(self.radius_labels, lambda name: name)]

    @property
    def caption(self) -> str:
        """What the figures are, for a terminal."""
        text = "certified accuracy in % at each l2 radius"
        text += " (0: clean accuracy)" if 0.0 in self.radii else ""
        text += "; images in [0, 1]"
        if any(row.figures["ACR"] is None for row in self.rows):
            text += f"; {UNKNOWN}: not decided (at-radius) or not published"
        if "failed" in self.columns:
            text += "; images that failed count 0"
        return text

    def latex_head(self) -> list[str]:
        """Return the lines of LaTeX between the upper rules: one title spans all radii."""
        count, before = len(self.radii), self.columns.index(RADII) if RADII in self.columns else 0
        titles = self._across(self.radius_labels, lambda name: COLUMNS[name].latex)
        head = " & ".join(["Result", *titles]) + r" \\"
        if RADII not in self.columns:
            return [head]
        after = " &" * (len(self.columns) - before - 1)
        spanned = rf"\multicolumn{{{count}}}{{c}}{{Certified accuracy (\%) at $\ell_2$ radius}}"
        rule = rf"\cmidrule(lr){{{before + 2}-{before + count + 1}}}"
        return [rf"{' &' * (before + 1)} {spanned}{after} \\", rule, head]

    def values(self) -> list[list[Any]]:
        """Return the rows unrounded: fractions, and None where a value is unknown."""
        return [[row.name, *self._in_order(row)] for row in self.rows]

    def cells(self) -> list[list[str]]:
        """Return the texts of the rows: accuracy in percent, everything rounded to nearest."""
        specs = self._across([COLUMNS[RADII].spec] * len(self.radii), lambda c: COLUMNS[c].spec)
        return [self._cells(row, specs) for row in self.rows]

    def best(self) -> set[tuple[int, int]]:
        """Return the (row, column) of the best figures, all those that are printed alike."""
        if len(self.rows) < 2 or not self.layout.marks_best:
            return set()
        ranked, cells, values = set(self.radius_labels), self.cells(), self.values()
        ranked |= {name for name, column in COLUMNS.items() if column.is_better_larger}
        found = set()
        for at, title in enumerate(self.header):
            known = [(row[at], i) for i, row in enumerate(values) if row[at] is not None]
            if title in ranked and known and max(known)[0] > 0:
                top = cells[max(known)[1]][at]
                found |= {(i, at) for i, row in enumerate(cells) if row[at] == top}
        return found

    def _in_order(self, row: Row) -> list[Any]:
        accuracy = [None if np.isnan(a) else float(a) for a in row.accuracy]
        return self._across(accuracy, lambda name: row.figures[name])

    def _across(self, at_radii: list[Any], at_column: Callable[[str], Any]) -> list[Any]:
        """Return a value for each column in order; those at the radii stand in one place."""
        parts = (at_radii if c == RADII else [at_column(c)] for c in self.columns)
        return [value for part in parts for value in part]

    def _cells(self, row: Row, specs: list[str]) -> list[str]:
        pairs = zip(self.header[1:], self._in_order(row), specs, strict=True)
        return [row.name, *(row.texts.get(title, _shown(value, s)) for title, value, s in pairs)]


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
    """Return the table of rows whose accuracies are at these radii [R]."""
    if any(row.figures.get("failed") for row in rows):
        rows = [replace(r, figures={**r.figures, "failed": r.figures["failed"] or 0}) for r in rows]
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
    table = ReportTable(radii, tuple(rows), columns or tuple(usual), layout)
    return _sorted(table, layout.sort) if layout.sort is not None else table


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


def _sorted(table: ReportTable, by: str) -> ReportTable:
    """Return the table with its rows sorted by a column: names upwards, figures downwards."""
    at = table.header.index(choose(by, table.header, "column to sort by"))
    keys = [row[at] for row in table.values()]
    known = [i for i, key in enumerate(keys) if key is not None]
    has_names = any(isinstance(keys[i], str) for i in known)
    order = sorted(known, key=lambda i: keys[i], reverse=not has_names)
    order += [i for i, key in enumerate(keys) if key is None]
    return replace(table, rows=tuple(table.rows[i] for i in order))


def _shown(value: Any, spec: str) -> str:
    if value is None:
        return UNKNOWN
    if spec == "%":
        return f"{100 * value:.1f}"
    if spec == "sigma":
        # 0.50 as the papers print it, and 0.125 in full.
        return f"{value:.2f}" if round(value, 2) == value else f"{value:g}"
    return printable(format(str(value) if spec == "s" else value, spec))
