"""A report: results side by side in a table, a plot and a page, with what makes them unlike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rsray.config import ReportConfig
from rsray.errors import UserError
from rsray.presets import Preset
from rsray.results import compare, published, table
from rsray.results.certificates import Certificates
from rsray.results.formats import TEXT_FORMATS, Table
from rsray.results.pages import leaderboard, page
from rsray.results.pages.gallery import PicturesOf, gallery_html
from rsray.results.pages.provenance import provenance_html
from rsray.results.paired import compare_all
from rsray.results.plots import PLOTS, accuracy, training
from rsray.results.plots.style import SUFFIXES, Style, save
from rsray.results.reading import cohen
from rsray.results.reading.sources import Found, LogFacts, load_results
from rsray.storage import Place, write_file
from rsray.storage.address import check_suffix

EPOCH_FIGURES = ("epoch", "loss", "noisy_accuracy", "seconds")
# Of trainings that differ in these it is said.
TRAINED_ALIKE = ("dataset", "model", "objective", "sigma", "epochs", "batch_size")


@dataclass(frozen=True)
class Report:
    """Results side by side, and in which ways they are not comparable."""

    # The papers' table first; then the paired comparison, where it was asked for.
    tables: tuple[Table, ...]
    warnings: list[str]
    written: tuple[str, ...] = ()

    @property
    def table(self) -> Table:
        """The table of the results."""
        return self.tables[0]

    def text(self, format: str = "markdown") -> str:
        """Return the tables as markdown, latex or csv."""
        return "\n".join(TEXT_FORMATS[format](each) for each in self.tables)

    def _repr_markdown_(self) -> str:
        """Return what a notebook shows."""
        return self.text("markdown")

    def _repr_html_(self) -> str:
        """Return the same as HTML."""
        return "".join(
            page.shown_html(each) + page.footnotes_html(each.notes) for each in self.tables
        )


def make_report(
    settings: ReportConfig, check: Callable[[str], str], pictures_of: PicturesOf
) -> Report:
    """Return the report that is asked for, and write its files.

    `check` is called with the place of each result: it returns what became of verifying it, and
    raises UserError for one that is not sound. `pictures_of` returns images of the result at a
    place, for the page.
    """
    _check_files(settings)
    found = _load(settings)
    outcomes = {place: check(place) for place in dict.fromkeys(found.places)}
    results = found.results
    if settings.common and results:
        results = compare.restrict(results, compare.common_indices(results))
    entries = published.published_figures(settings.published, results) if settings.published else []
    warnings = [*found.left_out, *compare.failures(results), *compare.skipped_otherwise(results)]
    warnings += compare.differences(results)
    if entries:
        datasets = [(each.name, each.parameter("dataset")) for each in results]
        unlike = compare.unlike("dataset", [*datasets, ("published", settings.published)])
        told = any(text.startswith("dataset differs") for text in warnings)
        warnings += [*(unlike if not told else ()), published.NOTE]
    layout = _layout(settings, tuple(warnings))
    radii = table.shown_radii(
        results, layout, reach=max([r for each in entries for r in each.certified], default=0.0)
    )
    tables: list[Table] = [_table(settings, results, entries, radii, layout)]
    tables += [compare_all(results, radii)] if settings.paired else []
    more = [page.further_table(each) for each in tables[1:]]
    if settings.html is not None and settings.leaderboard is None:
        pairs = zip(results, found.places, strict=True)
        more += [gallery_html(result, place, pictures_of) for result, place in pairs]
        verified = [outcomes[place] for place in found.places]
        more.append(provenance_html(results, found.places, verified))
    report = Report(tuple(tables), warnings)
    return replace(report, written=_write(settings, results, entries, report, "".join(more)))


def _check_files(settings: ReportConfig) -> None:
    """Refuse what cannot be written before anything is read."""
    if settings.export_cohen is not None and len(settings.paths) > 1:
        raise UserError(f"--export-cohen writes one result, but {len(settings.paths)} were given")
    if settings.plot is not None:
        check_suffix(settings.plot, SUFFIXES)
    if settings.html is not None:
        check_suffix(settings.html, (".html", ".htm"))
    if settings.export_cohen is not None:
        cohen.check_target(settings.export_cohen)


def _load(settings: ReportConfig) -> Found:
    told = ("sigma", "n", "alpha", "dataset", "start", "skip")
    facts = LogFacts(**{name: getattr(settings, f"log_{name}") for name in told})
    folders = [settings.leaderboard] if settings.leaderboard is not None else []
    return load_results([*settings.paths, *folders], facts, labels=settings.label)


def _layout(settings: ReportConfig, notes: tuple[str, ...]) -> table.Layout:
    radii = settings.radii
    chosen = {"step": radii} if isinstance(radii, float) else {"radii": radii}
    return table.Layout(
        columns=settings.columns,
        sort=settings.sort,
        title=settings.title,
        notes=notes,
        marks_best=not settings.by_class,
        **chosen,
    )


def _table(
    settings: ReportConfig,
    results: Sequence[Certificates],
    entries: Sequence[Preset],
    radii: np.ndarray,
    layout: table.Layout,
) -> table.ReportTable:
    shown = [p for r in results for p in compare.by_class(r)] if settings.by_class else results
    rows = [table.row_of(each, radii) for each in shown]
    rows += [published.row_of_preset(each, radii) for each in entries]
    return table.of_rows(rows, radii, layout)


def _write(
    settings: ReportConfig,
    results: Sequence[Certificates],
    entries: Sequence[Preset],
    report: Report,
    more: str,
) -> tuple[str, ...]:
    """Write the files that are asked for; returns their addresses."""
    written, warnings = [], report.warnings
    points = {each.name: each.certified for each in entries if each.certified}
    if settings.plot is not None:
        style = Style(title=settings.title, size=settings.size, notes=tuple(warnings))
        save(_figure(settings.plot_of, results, points, style), settings.plot)
        written.append(settings.plot)
    layout = _layout(settings, ())
    if settings.leaderboard is not None:
        path = settings.html or str(Place.of(settings.leaderboard) / "leaderboard.html")
        write_file(path, leaderboard.build(results, warnings=warnings, layout=layout).encode())
        written.append(path)
    elif settings.html is not None:
        text = page.build(
            results,
            warnings=warnings,
            layout=layout,
            more=more,
            main=None if settings.by_class else report.table,
            published=points,
        )
        write_file(settings.html, text.encode())
        written.append(settings.html)
    if settings.export_cohen is not None:
        if len(results) != 1:
            raise UserError(f"--export-cohen writes one result, but {len(results)} were given")
        cohen.write_log(settings.export_cohen, results[0])
        written += [settings.export_cohen, cohen.write_facts(settings.export_cohen, results[0])]
    return tuple(written)


def _figure(
    plot_of: str,
    results: Sequence[Certificates],
    points: Mapping[str, accuracy.Points],
    style: Style,
) -> Figure:
    if not (results or (points and plot_of == "accuracy")):
        raise UserError(f"there is nothing to draw of {plot_of}: give results")
    if plot_of == "accuracy":
        return accuracy.draw(results, style, published=points)
    drawn: Figure = PLOTS[plot_of](results, style)
    return drawn


def report_of_trainings(
    settings: ReportConfig,
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    records: Sequence[Mapping[str, Any]],
) -> Report:
    """Return the last epoch of each RUN, and draw all.

    `runs` holds their metrics by name, `records` what each run.yaml says.
    """
    names = settings.label or list(runs)
    if not len(names) == len(set(names)) == len(runs):
        raise UserError(f"{len(names)} labels were given for {len(runs)} runs, one each and unlike")
    told = [
        compare.unlike(key, zip(names, (each.get(key) for each in records), strict=True))
        for key in TRAINED_ALIKE
    ]
    notes = tuple(text for texts in told for text in texts)
    named = dict(zip(names, runs.values(), strict=True))
    if settings.plot is not None:
        style = Style(title=settings.title, size=settings.size, notes=notes)
        save(training.draw(named, style), settings.plot)
    last = {name: {**lines[-1], "epoch": lines[-1]["epoch"] + 1} for name, lines in named.items()}
    rows = [[name, *(line.get(each) for each in EPOCH_FIGURES)] for name, line in last.items()]
    shown = Table(
        ["run", *EPOCH_FIGURES],
        rows,
        title=settings.title,
        caption="the last epoch of each run",
        notes=notes,
    )
    return Report((shown,), list(notes), (settings.plot,) if settings.plot is not None else ())
