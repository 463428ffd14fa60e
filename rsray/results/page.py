"""One self-contained HTML file: curves, table, parameters and warnings of some results."""

import json
from collections.abc import Iterable, Sequence
from html import escape
from importlib.metadata import version
from typing import Any

from rsray import storage
from rsray.core.radius import acr_standard_error
from rsray.results import plot, table
from rsray.results.certificates import Certificates
from rsray.results.compare import describe_indices
from rsray.results.summary import largest_certifiable_radius
from rsray.storage import PathLike

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1e; --paper: #ffffff; --faint: #6b6b70;
  --line: #dcdce0; --note: #fff4d6; --note-line: #d99a00; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececf0; --paper: #17171a; --faint: #a0a0a8;
  --line: #3a3a40; --note: #3a2f10; --note-line: #d9a520; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
p, figcaption { color: var(--faint); }
figure { margin: 1rem 0; } figcaption { font-size: .875rem; }
figure svg { background: #ffffff; border-radius: 6px; width: 100%; max-width: 46rem; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
.parameters td { white-space: normal; text-align: left; overflow-wrap: anywhere; }
.parameters th { font-weight: normal; color: var(--faint); vertical-align: top; }
.warning { background: var(--note); border-left: 4px solid var(--note-line);
  color: var(--ink); padding: .5rem .8rem; margin: .5rem 0; }
"""


def write_page(
    path: PathLike,
    results: Sequence[Certificates],
    *,
    warnings: Sequence[str],
    step: float = table.DEFAULT_STEP,
) -> None:
    """Write the page of the results, complete or not at all."""
    storage.write_file(path, build(results, warnings=warnings, step=step).encode())


def build(results: Sequence[Certificates], *, warnings: Sequence[str], step: float) -> str:
    """Return the page as HTML; every text that comes from a result is escaped."""
    title = escape(f"Certified robustness: {', '.join(result.name for result in results)}")
    parameters = "".join(_parameters(result) for result in results)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>Certified robustness</h1>
{"".join(f'<div class="warning" role="note">{escape(warning)}</div>' for warning in warnings)}
<figure>
{_inline_svg(results)}
<figcaption>Certified accuracy: the fraction of images that are classified correctly, and provably
so everywhere within the radius. ACR: average certified radius, wrong images counting 0.
</figcaption>
</figure>
<h2>Certified accuracy in %</h2>
{_table(table.build(results, step=step))}
<h2>Parameters</h2>
{parameters}
<p>Written by rsray {escape(version("rsray"))}. Radii are l2, for images with pixels in [0, 1].</p>
</body>
</html>
"""


def _inline_svg(results: Sequence[Certificates]) -> str:
    text = plot.render(plot.draw(results), ".svg").decode()
    described = "Certified accuracy against l2 radius; the table below holds the same figures."
    # The XML prologue and document type belong to a file of its own, not inside HTML.
    return f'<svg role="img" aria-label="{described}"' + text[text.index("<svg") + len("<svg") :]


def _table(shown: table.ReportTable) -> str:
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in shown.header)
    body = "".join(f"<tr>{_cells(cells)}</tr>\n" for cells in shown.cells())
    rows = f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody>"
    return f'<div class="wide"><table>{rows}</table></div>'


def _cells(cells: Iterable[str]) -> str:
    return "".join(f"<td>{escape(cell)}</td>" for cell in cells)


def _parameters(result: Certificates) -> str:
    error = acr_standard_error(result.radius, result.correct)
    facts: dict[str, Any] = {
        "images": describe_indices(result.index),
        "standard error of the ACR": f"{error:.4f}",
        "largest certifiable radius": f"{largest_certifiable_radius(result):.4f}",
        "abstained": int(((result.prediction < 0) & ~result.skipped).sum()),
        **{"n0": result.parameter("n0"), "n": result.parameter("n")},
        **dict(result.metadata.items()),
    }
    rows = "".join(
        f'<tr><th scope="row">{escape(str(name))}</th><td>{escape(_text(value))}</td></tr>\n'
        for name, value in facts.items()
    )
    return (
        f'<h3>{escape(result.name)}</h3>\n<table class="parameters"><tbody>{rows}</tbody></table>\n'
    )


def _text(value: Any) -> str:
    if value is None:
        return "unknown"
    return value if isinstance(value, str) else json.dumps(value, default=str)
