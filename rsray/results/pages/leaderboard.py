"""A page of many results: a table to sort, then for each data set and sigma the best first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rsray.errors import UserError
from rsray.results import table
from rsray.results.certificates import Certificates
from rsray.results.compare import differences, skipped_otherwise
from rsray.results.pages import page
from rsray.results.paired import Pair, compare_pair, paired_table

UNKNOWN = "not known"
OVERVIEW = ("dataset", "sigma", "ACR", "error", "clean", "images", "n", "alpha", "bound")


def build(results: Sequence[Certificates], *, warnings: Sequence[str], layout: table.Layout) -> str:
    """Return the page as HTML; unlike results are told apart within their group."""
    groups = _groups(results)
    ordered = [result for members in groups.values() for result in members]
    overview = table.build(ordered, replace(layout, columns=OVERVIEW, marks_best=False, sort=None))
    left_out = [text for text in warnings if text.startswith("left out")]
    body = [
        "<p>A click on a title sorts by that column.</p>",
        page.table_html(overview.header, overview.cells(), is_sortable=True),
        page.notes_html(left_out),
        *(_group_html(key, members, layout) for key, members in groups.items()),
    ]
    title = layout.title or "Leaderboard"
    return page.document(title, title, "\n".join(body), script=page.asset("sort.js"))


def _groups(results: Sequence[Certificates]) -> dict[tuple[str, str], list[Certificates]]:
    """Return the results by data set and sigma, each group with its largest ACR first."""
    groups: dict[tuple[str, str], list[Certificates]] = {}
    best_first = sorted(results, key=lambda each: 1.0 if each.at_radius else -each.acr)
    for result in sorted(best_first, key=_key):
        groups.setdefault(_key(result), []).append(result)
    return groups


def _key(result: Certificates) -> tuple[str, str]:
    sigma = result.parameter("sigma")
    return str(result.parameter("dataset") or UNKNOWN), UNKNOWN if sigma is None else f"{sigma:.3g}"


def _group_html(key: tuple[str, str], members: Sequence[Certificates], layout: table.Layout) -> str:
    """Return a group: its table, its curves, and each result against the best one."""
    built = table.build(members, replace(layout, title="", columns=(), sort=None))
    pairs, apart = _against_best(members, built.radii)
    paired = paired_table(pairs, built.radii)
    notes = [*skipped_otherwise(members), *differences(members), *apart]
    named = page.escape(f"{key[0]}, sigma {key[1]}")
    compared = (
        f"<h3>Against the best, on the same images</h3>\n{page.shown_html(paired)}"
        f"<p>{page.escape('; '.join(paired.notes))}</p>"
        if pairs
        else ""
    )
    return "\n".join(
        [
            f"<h2>{named}</h2>",
            page.shown_html(built),
            compared,
            page.notes_html(notes),
            page.figure_html(page.curves_html(members), "Certified accuracy.", notes),
        ]
    )


def _against_best(
    members: Sequence[Certificates], radii: np.ndarray
) -> tuple[list[Pair], list[str]]:
    """Return each result against the first, and why some cannot be compared."""
    best, *others = members
    pairs, apart = [], []
    for other in others:
        try:
            pairs.append(compare_pair(other, best, radii))
        except UserError as problem:
            apart.append(f"{other.name} is not compared with {best.name}: {problem}")
    return pairs, apart
