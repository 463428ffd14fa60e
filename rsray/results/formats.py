"""A table of texts in the formats that it is read in: a terminal, Markdown, LaTeX, CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rsray.errors import printable

if TYPE_CHECKING:
    import rich.console

LATEX_ESCAPES = str.maketrans(
    {c: rf"\{c}" for c in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
)
MARKDOWN_ESCAPES = str.maketrans({c: f"\\{c}" for c in "\\|`*[]"} | {"<": "&lt;"})
NOTES, UNKNOWN = "notes", "-"


@dataclass(frozen=True)
class Table:
    """What can be shown in every format: numbers and texts in rows and columns."""

    # The titles of the columns.
    header: list[str]
    # Unrounded, None where a value is unknown.
    rows: Sequence[Sequence[Any]]
    # As they are read; where there are none, four digits of each number.
    texts: Sequence[list[str]] = ()
    # The (row, column) of the cells that stand out.
    best: Collection[tuple[int, int]] = ()
    title: str = ""
    # What the figures are, for a terminal.
    caption: str = ""
    # What a reader must know before comparing rows.
    notes: tuple[str, ...] = ()
    # The lines of LaTeX between the upper rules, where they are more than the titles.
    latex_head: tuple[str, ...] = ()

    def cells(self) -> list[list[str]]:
        """Return the texts of the rows."""
        return list(self.texts) or [[_plain(value) for value in row] for row in self.rows]

    def values(self) -> list[list[Any]]:
        """Return the rows unrounded, for programs."""
        return [list(row) for row in self.rows]


def _plain(value: Any) -> str:
    if value is None:
        return UNKNOWN
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value))


def _marked(
    table: Table, escape: Callable[[str], str], mark: Callable[[str], str]
) -> list[list[str]]:
    """Return the cells, escaped, the best ones marked."""
    return [
        [mark(escape(cell)) if (i, j) in table.best else escape(cell) for j, cell in enumerate(row)]
        for i, row in enumerate(table.cells())
    ]


def rich_table(table: Table, *, width: int, has_notes: bool = False) -> rich.console.Group:
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


def markdown(table: Table) -> str:
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


def latex(table: Table) -> str:
    """Return a tabular in the style of the booktabs package; with a title, a floating table."""
    body = _marked(table, _escaped_latex, lambda cell: rf"\textbf{{{cell}}}")
    lines = [
        rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
        r"\toprule",
        *(table.latex_head or (rf"{' & '.join(map(_escaped_latex, table.header))} \\",)),
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


def comma_separated(table: Table) -> str:
    """Return CSV for programs: figures unrounded, empty where unknown; notes are a column."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    notes: Sequence[str] = ["; ".join(map(printable, table.notes))] if table.notes else []
    writer.writerow([*table.header, *([NOTES] if notes else [])])
    writer.writerows([*row, *notes] for row in table.rows)
    return sink.getvalue()


TEXT_FORMATS: dict[str, Callable[[Table], str]] = {
    "markdown": markdown,
    "latex": latex,
    "csv": comma_separated,
}
