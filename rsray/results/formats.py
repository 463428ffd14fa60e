"""A table of texts in the formats that it is read in: a terminal, Markdown, LaTeX, CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from rsray.errors import printable

if TYPE_CHECKING:
    import rich.console

LATEX_ESCAPES = str.maketrans(
    {c: rf"\{c}" for c in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
)
MARKDOWN_ESCAPES = str.maketrans({c: f"\\{c}" for c in "\\|`*[]"} | {"<": "&lt;"})
NOTES, UNKNOWN = "notes", "-"


class Shown(Protocol):
    """What can be shown in every format: texts in rows and columns."""

    @property
    def title(self) -> str:
        """What it is called; may be empty."""

    @property
    def caption(self) -> str:
        """What the figures are, for a terminal."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know before comparing rows."""

    @property
    def header(self) -> list[str]:
        """The titles of the columns."""

    def latex_head(self) -> list[str]:
        """Return the lines of LaTeX between the upper rules."""

    def cells(self) -> list[list[str]]:
        """Return the texts of the rows."""

    def values(self) -> list[list[Any]]:
        """Return the rows unrounded, for programs."""

    def best(self) -> set[tuple[int, int]]:
        """Return the (row, column) of the cells that stand out."""


@dataclass(frozen=True)
class PlainTable:
    """Rows of numbers and texts as they are, nothing marked."""

    header: list[str]
    rows: Sequence[Sequence[Any]]
    title: str = ""
    caption: str = ""
    notes: tuple[str, ...] = ()

    def latex_head(self) -> list[str]:
        """Return the one line of titles."""
        return [" & ".join(_escaped_latex(title) for title in self.header) + r" \\"]

    def cells(self) -> list[list[str]]:
        """Return the texts of the rows: four digits of each number."""
        return [[_plain(value) for value in row] for row in self.rows]

    def values(self) -> list[list[Any]]:
        """Return the rows as they are."""
        return [list(row) for row in self.rows]

    def best(self) -> set[tuple[int, int]]:
        """Return nothing."""
        return set()


def _plain(value: Any) -> str:
    if value is None:
        return UNKNOWN
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value))


def _marked(
    table: Shown, escape: Callable[[str], str], mark: Callable[[str], str]
) -> list[list[str]]:
    """Return the cells, escaped, the best ones marked."""
    best = table.best()
    return [
        [mark(escape(cell)) if (i, j) in best else escape(cell) for j, cell in enumerate(row)]
        for i, row in enumerate(table.cells())
    ]


def rich_table(table: Shown, *, width: int, has_notes: bool = False) -> rich.console.Group:
    """Return the table for a terminal; columns become rows where they would not fit.

    Below it, as wide as the terminal, stand its caption and notes.
    """
    import rich.box
    import rich.console
    import rich.markup
    import rich.table
    import rich.text

    # Measured against a width that never squeezes, else every table seems to fit.
    roomy = rich.console.Console(width=10_000, file=io.StringIO())
    notes = [f"note: {printable(note)}" for note in table.notes] if has_notes else []
    cells = _marked(table, rich.markup.escape, lambda cell: f"[bold]{cell}[/bold]")
    grid = [[rich.markup.escape(title) for title in table.header], *cells]
    for candidate in (grid, [list(column) for column in zip(*grid, strict=True)]):
        shown = rich.table.Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
        shown.title = rich.markup.escape(printable(table.title)) or None
        shown.title_justify = "left"
        for position, title in enumerate(candidate[0]):
            shown.add_column(title, justify="right" if position else "left", overflow="fold")
        for row in candidate[1:]:
            shown.add_row(*row)
        if roomy.measure(shown).maximum <= width:
            break
    below = rich.text.Text("\n".join(filter(None, [table.caption, *notes])), style="dim italic")
    return rich.console.Group(shown, *([below] if below else []))


def markdown(table: Shown) -> str:
    """Return a GitHub-flavoured table; notes are a list below it."""
    rule = ["---", *["---:"] * (len(table.header) - 1)]
    cells = _marked(table, _escaped_markdown, lambda cell: f"**{cell}**")
    rows = [[_escaped_markdown(title) for title in table.header], rule, *cells]
    body = "".join("| " + " | ".join(row) + " |\n" for row in rows)
    head = f"**{_escaped_markdown(printable(table.title))}**\n\n" if table.title else ""
    notes = "".join(f"- {_escaped_markdown(printable(note))}\n" for note in table.notes)
    return head + body + (f"\n{notes}" if notes else "")


def _escaped_markdown(text: str) -> str:
    return text.translate(MARKDOWN_ESCAPES)


def latex(table: Shown) -> str:
    """Return a tabular in the style of the booktabs package; with a title, a floating table."""
    body = _marked(table, _escaped_latex, lambda cell: rf"\textbf{{{cell}}}")
    lines = [
        rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
        r"\toprule",
        *table.latex_head(),
        r"\midrule",
        *(rf"{' & '.join(row)} \\" for row in body),
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par{{\footnotesize {_escaped_latex(printable(note))}\par}}" for note in table.notes),
    ]
    if table.title:
        caption = rf"\caption{{{_escaped_latex(printable(table.title))}}}"
        lines = [r"\begin{table}", r"\centering", caption, *lines, r"\end{table}"]
    return "\n".join([r"% \usepackage{booktabs}", *lines]) + "\n"


def _escaped_latex(text: str) -> str:
    return text.translate(LATEX_ESCAPES)


def comma_separated(table: Shown) -> str:
    """Return CSV for programs: figures unrounded, empty where unknown; notes are a column."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    notes: Sequence[str] = ["; ".join(map(printable, table.notes))] if table.notes else []
    writer.writerow([*table.header, *([NOTES] if notes else [])])
    writer.writerows([*row, *notes] for row in table.values())
    return sink.getvalue()


TEXT_FORMATS: dict[str, Callable[[Shown], str]] = {
    "markdown": markdown,
    "latex": latex,
    "csv": comma_separated,
}
