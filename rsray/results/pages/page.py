"""One self-contained HTML file: curves, table, parameters and warnings of some results."""

import html
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from importlib import resources
from importlib.metadata import version
from typing import Any

from matplotlib.figure import Figure

from rsray.core.radius import round_down
from rsray.errors import printable
from rsray.results import table
from rsray.results.certificates import Certificates
from rsray.results.compare import by_class, describe_indices
from rsray.results.formats import Table
from rsray.results.pages import curves
from rsray.results.plots import accuracy
from rsray.results.plots.style import render
from rsray.results.summary import largest_certifiable_radius
from rsray.results.table import Layout

# Rows of the table by class: of more classes, those with the smallest ACR are shown.
MOST_CLASSES = 50
SEE_TABLE = "Certified accuracy against l2 radius; the table below holds the same figures."
CAPTION = (
    "Certified accuracy: the fraction of images that are classified correctly, and provably so "
    "everywhere within the radius. ACR: average certified radius, wrong images counting 0."
)


def build(
    results: Sequence[Certificates],
    *,
    warnings: Sequence[str],
    layout: Layout | None = None,
    more: str = "",
    main: Table | None = None,
    published: Mapping[str, accuracy.Points] | None = None,
) -> str:
    """Return the page as HTML, `more` in it; every text that comes from a result is escaped.

    `main` is the table, in place of that of the results, `published` are points beside curves.
    """
    heading = layout.title if layout and layout.title else "Certified robustness"
    title = ": ".join(filter(None, [heading, ", ".join(result.name for result in results)]))
    shown = sections(
        results, notes=warnings, layout=layout, more=more, main=main, published=published
    )
    return document(title, heading, shown)


def headline(results: Sequence[Certificates]) -> str:
    """Return what the page is about in a line: the largest ACR; empty where there is none."""
    known = [result for result in results if not result.at_radius]
    if not known:
        return ""
    best = max(known, key=lambda result: result.acr)
    around = f" ± {best.acr_error:.3f}" if best.acr_error is not None else ""
    name = f", the largest of {len(known)}: {best.name}" if len(known) > 1 else f" ({best.name})"
    text = f"Average certified radius {best.acr:.3f}{around}{name}"
    return f'<p class="headline">{escape(text)}</p>\n'


def notes_html(warnings: Iterable[str]) -> str:
    """Return what a reader must know before comparing results."""
    notes = (f'<div class="warning" role="note">{escape(text)}</div>' for text in warnings)
    return "".join(notes)


def sections(
    results: Sequence[Certificates],
    *,
    notes: Sequence[str],
    layout: Layout | None = None,
    more: str = "",
    main: Table | None = None,
    published: Mapping[str, accuracy.Points] | None = None,
) -> str:
    """Return the largest ACR, notes, curves, tables and, folded, the parameters, as HTML."""
    picture = curves_html(results, published)
    drawn = figure_html(picture, CAPTION, notes) if picture else ""
    return f"""{headline(results)}{notes_html(notes)}{drawn}
<h2>Certified accuracy in %</h2>
{shown_html(main or table.build(results, layout))}
{more}
{"".join(_class_table(result, layout) for result in results if result.classes)}
<h2>Parameters</h2>
{"".join(_parameters(result) for result in results)}"""


def curves_html(
    results: Sequence[Certificates], published: Mapping[str, accuracy.Points] | None = None
) -> str:
    """Return the curves to look into; where there is no JavaScript, as a picture.

    Empty where there is nothing to draw; `published` figures are points.
    """
    if not (results or published):
        return ""
    data = html.escape(json.dumps(curves.curves_data(results, published or {})))
    picture = inline_svg(accuracy.draw(results, published=published))
    return f'<div data-curves="{data}" data-description="{escape(SEE_TABLE)}">{picture}</div>'


def further_table(shown: Table) -> str:
    """Return a table with its title and its notes, as HTML."""
    return f"<h2>{escape(shown.title)}</h2>\n{shown_html(shown)}\n{footnotes_html(shown.notes)}\n"


def footnotes_html(notes: Iterable[str]) -> str:
    """Return notes as what stands below a table or a figure; empty without any."""
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<ul class="footnotes">{listed}</ul>' if listed else ""


def _class_table(result: Certificates, layout: Layout | None) -> str:
    """Return the table of a result's classes; of very many, the hardest ones."""
    parts = by_class(result)
    hardest = sorted(parts, key=lambda part: part.acr)[:MOST_CLASSES]
    chosen = [part for part in parts if part in hardest]
    kept = f", the {len(chosen)} hardest" if len(chosen) < len(parts) else ""
    built = table.build(chosen, replace(layout or Layout(), marks_best=False))
    heading = f"<h2>Classes of {escape(result.name)}{kept}</h2>"
    return f"{heading}\n{shown_html(built)}\n"


def escape(text: str) -> str:
    """Return a text of somebody's as text of a page."""
    return html.escape(printable(text))


def asset(name: str) -> str:
    """Return the text of a file beside this one: a style sheet or a script."""
    return resources.files(__package__).joinpath(name).read_text()


def document(title: str, heading: str, body: str, script: str = "") -> str:
    """Return a self-contained page around a body of HTML; the title and heading are plain text."""
    needed = [asset("curves.js")] if "data-curves=" in body else []
    scripts = "".join(f"<script>{each}</script>\n" for each in [*needed, script] if each)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{asset("page.css")}</style>
</head>
<body>
<h1>{escape(heading)}</h1>
{body}
<p>Written by rsray {escape(version("rsray"))}. Radii are l2, for images with pixels in [0, 1].</p>
{scripts}</body>
</html>
"""


def figure_html(svg: str, caption: str, notes: Iterable[str] = ()) -> str:
    """Return an inline SVG with its caption and notes, which are plain text."""
    below = f"{escape(caption)}{footnotes_html(notes)}"
    return f"<figure>\n{svg}\n<figcaption>{below}</figcaption>\n</figure>"


def inline_svg(figure: Figure, described: str = SEE_TABLE) -> str:
    """Return a figure as SVG that can stand inside HTML, named for those who do not see it."""
    return svg_inside_html(render(figure, ".svg").decode(), described)


def svg_inside_html(text: str, described: str) -> str:
    """Return the text of an .svg file as an element of HTML."""
    # The XML prologue and document type belong to a file of its own, not inside HTML.
    inside = text[text.index("<svg") + len("<svg") :]
    return f'<svg role="img" aria-label="{escape(described)}"' + inside


def shown_html(shown: Table) -> str:
    """Return a table, its best figures marked."""
    return table_html(shown.header, shown.cells(), best=shown.best)


def table_html(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    best: Collection[tuple[int, int]] = (),
    is_sortable: bool = False,
) -> str:
    """Return a table of plain texts; `best` are the (row, column) of cells that stand out."""
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in header)
    body = "".join(
        f"<tr>{''.join(_cell(cell, (i, j) in best) for j, cell in enumerate(cells))}</tr>\n"
        for i, cells in enumerate(rows)
    )
    inside = f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody>"
    kind = ' class="sortable"' if is_sortable else ""
    return f'<div class="wide"><table{kind}>{inside}</table></div>'


def facts_html(facts: Mapping[str, Any]) -> str:
    """Return named values as a table of two columns."""
    rows = "".join(
        f'<tr><th scope="row">{escape(str(name))}</th><td>{escape(_text(value))}</td></tr>\n'
        for name, value in facts.items()
    )
    return f'<table class="parameters"><tbody>{rows}</tbody></table>\n'


def folded_html(title: str, facts: Mapping[str, Any]) -> str:
    """Return named values that open at a click on their title."""
    inside = f"<summary>{escape(title)}</summary>\n{facts_html(facts)}"
    return f"<details>{inside}</details>\n"


def _cell(text: str, is_best: bool) -> str:
    return f"<td><strong>{escape(text)}</strong></td>" if is_best else f"<td>{escape(text)}</td>"


def _parameters(result: Certificates) -> str:
    """Return the parameters, folded; what a run of our own does not have is none, not unknown."""
    error = f"{result.acr_error:.4f}" if result.acr_error is not None else None
    is_own = "format" not in result.metadata
    recorded = {k: "none" if is_own and v is None else v for k, v in result.metadata.items()}
    facts: dict[str, Any] = {
        "images": describe_indices(result.selected),
        **({} if result.at_radius else {"standard error of the ACR": error}),
        "largest certifiable radius": f"{round_down(largest_certifiable_radius(result), 4):.4f}",
        "abstained": result.abstained,
        "failed": len(result.failed),
        **{"n0": result.parameter("n0"), "n": result.parameter("n")},
        **recorded,
    }
    return folded_html(result.name, facts)


def _text(value: Any) -> str:
    if value is None:
        return "unknown"
    return value if isinstance(value, str) else json.dumps(value, default=str)
