"""The papers' table: a row per result, certified accuracy at growing radii, then the ACR.

An image that failed counts 0 everywhere; where there is one, a column says how many.
"""

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rsray.core.radius import round_down
from rsray.errors import UserError, printable
from rsray.results.audited import audit_text
from rsray.results.certificates import Certificates
from rsray.results.summary import largest_certifiable_radius

if TYPE_CHECKING:
    import rich.table

DEFAULT_STEP = 0.25
MOST_COLUMNS = 100
UNKNOWN = "-"
LATEX_ESCAPES = str.maketrans(
    {c: rf"\{c}" for c in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
)
# What would end a cell, or begin code, a link or HTML.
MARKDOWN_ESCAPES = str.maketrans(
    {c: rf"\{c}" for c in r"|\`[]"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
)
FAILED, AUDIT = "failed", "audit"
# The columns after the radii: how each value is printed, and its title in LaTeX.
TAIL = {
    "ACR": (".3f", "ACR"),
    "images": ("d", "Images"),
    FAILED: ("d", "Failed"),
    "n": ("d", "$n$"),
    "alpha": ("g", r"$\alpha$"),
    AUDIT: ("s", "Audit"),
}


@dataclass(frozen=True)
class Row:
    """One result's figures; accuracy holds fractions [R], ACR is l2 in pixels of [0, 1].

    A run that decided a few radii alone has no ACR, and NaN at the others.
    """

    name: str
    sigma: float | None
    accuracy: np.ndarray
    acr: float | None
    num_selected: int
    num_failed: int
    n: int | None
    alpha: float | None
    audit: str | None

    @property
    def tail(self) -> dict[str, Any]:
        """The values of the columns after the radii."""
        values = (
            self.acr, self.num_selected, self.num_failed, self.n, self.alpha, self.audit
        )  # fmt: skip
        return dict(zip(TAIL, values, strict=True))


@dataclass(frozen=True)
class ReportTable:
    """Rows over common radii [R]."""

    radii: np.ndarray
    rows: tuple[Row, ...]

    @property
    def radius_labels(self) -> list[str]:
        """The radii, never rounded up, with as many decimals as they have: two to nine."""
        decimals = max([2, *(len(f"{r:.9f}".rstrip("0").partition(".")[2]) for r in self.radii)])
        return [f"{r:.{decimals}f}" for r in round_down(self.radii, decimals)]

    @property
    def tail(self) -> list[str]:
        """The titles of the columns after the radii."""
        is_shown = {
            FAILED: any(row.num_failed for row in self.rows),
            AUDIT: any(row.audit for row in self.rows),
        }
        return [title for title in TAIL if is_shown.get(title, True)]

    @property
    def header(self) -> list[str]:
        """The column titles."""
        return ["result", "sigma", *self.radius_labels, *self.tail]

    def cells(self) -> list[list[str]]:
        """Return the texts of the rows: accuracy in percent, everything rounded to nearest."""
        return [self._cells(row) for row in self.rows]

    def _cells(self, row: Row) -> list[str]:
        accuracy = [UNKNOWN if np.isnan(a) else f"{100 * a:.1f}" for a in row.accuracy]
        tail = [_or_unknown(row.tail[title], TAIL[title][0]) for title in self.tail]
        return [row.name, _sigma(row.sigma), *accuracy, *tail]


def build(results: Sequence[Certificates], *, step: float = DEFAULT_STEP) -> ReportTable:
    """Return the table of results at radii 0, step, 2 step ... up to the largest certifiable one.

    Results that decided some radii alone (at-radius) add these, and have figures at no others.

    Raises UserError for a step that is not positive or gives more than 100 columns.
    """
    curves = [result for result in results if not result.at_radius]
    radii = _radii(max(map(largest_certifiable_radius, curves), default=0.0), step)
    asked = [radius for result in results for radius in result.at_radius]
    radii = np.union1d(radii if curves else [], asked)
    return ReportTable(radii, tuple(_row(result, radii) for result in results))


def _radii(largest: float, step: float) -> np.ndarray:
    if not (math.isfinite(step) and step > 0 and largest / step < MOST_COLUMNS):
        raise UserError(
            f"radii step {step} is not allowed; it must be above {largest / MOST_COLUMNS:.3g}, "
            f"for at most {MOST_COLUMNS} columns"
        )
    # Rounded: 3 * 0.1 lies above 0.3, and would leave out the images certified at 0.3 exactly.
    radii: np.ndarray = np.round(np.arange(math.floor(largest / step + 1e-9) + 1) * step, 6)
    return radii


def _row(result: Certificates, radii: np.ndarray) -> Row:
    accuracy = result.accuracy_at(radii)
    if result.at_radius:
        accuracy[~np.isin(radii, result.at_radius)] = np.nan
    return Row(
        name=printable(result.name),
        sigma=result.parameter("sigma"),
        accuracy=accuracy,
        acr=None if result.at_radius else result.acr,
        num_selected=len(result.selected),
        num_failed=len(result.failed),
        n=result.parameter("n"),
        alpha=result.parameter("alpha"),
        audit=audit_text(result.metadata.get("audit")),
    )


def _or_unknown(value: Any, spec: str) -> str:
    return UNKNOWN if value is None else format(value, spec)


def _sigma(sigma: float | None) -> str:
    """Return 0.50 as the papers print it, and 0.125 in full."""
    if sigma is None:
        return UNKNOWN
    return f"{sigma:.2f}" if round(sigma, 2) == sigma else f"{sigma:g}"


def rich_table(table: ReportTable, *, width: int) -> "rich.table.Table":
    """Return the table for a terminal; radii become rows where the columns would not fit."""
    import rich.box
    import rich.console
    import rich.markup
    import rich.table

    # Measured against a width that never squeezes, else every table seems to fit.
    roomy = rich.console.Console(width=10_000, file=io.StringIO())
    caption = "certified accuracy in % at each l2 radius; images in [0, 1]"
    if any(row.acr is None for row in table.rows):
        caption += "; -: not decided (at-radius)"
    if FAILED in table.tail:
        caption += "; images that failed count 0"
    grid = [table.header, *table.cells()]
    for candidate in (grid, [list(column) for column in zip(*grid, strict=True)]):
        shown = rich.table.Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
        shown.caption = caption
        shown.caption_justify = "left"
        for position, title in enumerate(candidate[0]):
            shown.add_column(
                rich.markup.escape(title), justify="right" if position else "left", overflow="fold"
            )
        for cells in candidate[1:]:
            shown.add_row(*(rich.markup.escape(cell) for cell in cells))
        if roomy.measure(shown).maximum <= width:
            break
    return shown


def markdown(table: ReportTable) -> str:
    """Return a GitHub-flavoured table, certified accuracy in percent."""
    rule = ["---", *["---:"] * (len(table.header) - 1)]
    rows = [table.header, rule, *table.cells()]
    return "".join(
        "| " + " | ".join(c.translate(MARKDOWN_ESCAPES) for c in row) + " |\n" for row in rows
    )


def latex(table: ReportTable) -> str:
    """Return a tabular in the style of the booktabs package, certified accuracy in percent."""
    count, tail = len(table.radii), [TAIL[title][1] for title in table.tail]
    radii = " & ".join(table.radius_labels)
    body = [" & ".join(cell.translate(LATEX_ESCAPES) for cell in row) for row in table.cells()]
    lines = [
        r"% \usepackage{booktabs}",
        rf"\begin{{tabular}}{{l{'r' * (count + 1 + len(tail))}}}",
        r"\toprule",
        rf" & & \multicolumn{{{count}}}{{c}}{{Certified accuracy (\%) at $\ell_2$ radius}}"
        rf"{' &' * len(tail)} \\",
        rf"\cmidrule(lr){{3-{count + 2}}}",
        rf"Result & $\sigma$ & {radii} & {' & '.join(tail)} \\",
        r"\midrule",
        *(rf"{row} \\" for row in body),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def comma_separated(table: ReportTable) -> str:
    """Return CSV for programs: fractions and ACR unrounded, empty where a value is unknown."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(table.header)
    for row in table.rows:
        accuracy = [None if np.isnan(a) else float(a) for a in row.accuracy]
        tail = [row.tail[title] for title in table.tail]
        writer.writerow([row.name, row.sigma, *accuracy, *tail])
    return sink.getvalue()


TEXT_FORMATS: dict[str, Callable[[ReportTable], str]] = {
    "markdown": markdown,
    "latex": latex,
    "csv": comma_separated,
}
