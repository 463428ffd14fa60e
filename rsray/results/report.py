"""A report: results side by side in a table, a plot and a page, with what makes them unlike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rsray.config import ReportConfig
from rsray.errors import UserError
from rsray.presets import Preset
from rsray.results import compare, published, table
from rsray.results.certificates import Certificates
from rsray.results.formats import TEXT_FORMATS, PlainTable, Shown
from rsray.results.pages import leaderboard, page
from rsray.results.pages.gallery import PicturesOf, gallery_html
from rsray.results.paired import compare_all
from rsray.results.plots import PLOTS, accuracy, training
from rsray.results.plots.style import Style, check_suffix, save
from rsray.results.reading import cohen
from rsray.results.reading.sources import Found, LogFacts, load_results
from rsray.storage import Place, write_file

EPOCH_FIGURES = ("epoch", "loss", "noisy_accuracy", "seconds")


@dataclass(frozen=True)
class Report:
    """Results side by side, and in which ways they are not comparable."""

    # The papers' table first; then the paired comparison, where it was asked for.
    tables: tuple[Shown, ...]
    warnings: list[str]
    written: tuple[str, ...] = ()

    @property
    def table(self) -> Shown:
        """The table of the results."""
        return self.tables[0]

    def text(self, format: str = "markdown") -> str:
        """Return the tables as markdown, latex or csv."""
        return "\n".join(TEXT_FORMATS[format](each) for each in self.tables)

    def _repr_markdown_(self) -> str:
        """Return what a notebook shows."""
        return self.text("markdown")


def make_report(
    settings: ReportConfig, check: Callable[[str], None], pictures_of: PicturesOf
) -> Report:
    """Return the report that is asked for, and write its files.

    `check` is called with the place of each result, and raises UserError for one that is not sound;
    `pictures_of` returns images of the result at a place, for the page.
    """
    _check_files(settings)
    found = _load(settings)
    for place in dict.fromkeys(found.places):
        check(place)
    results = found.results
    if settings.common and results:
        results = compare.restrict(results, compare.common_indices(results))
    entries = published.published_figures(settings.published, results) if settings.published else []
    warnings = [*found.left_out, *compare.failures(results)]
    # The page of a leaderboard compares within each data set and sigma.
    warnings += compare.differences(results) if settings.leaderboard is None else []
    warnings += [published.NOTE] if entries else []
    layout = _layout(settings, tuple(warnings))
    radii = table.shown_radii(
        results, layout, reach=max([r for each in entries for r in each.certified], default=0.0)
    )
    tables: list[Shown] = [_table(settings, results, entries, radii, layout)]
    tables += [compare_all(results, radii)] if settings.paired else []
    more = [page.further_table(each) for each in tables[1:]]
    if settings.html is not None and settings.leaderboard is None:
        pairs = zip(results, found.places, strict=True)
        more += [gallery_html(result, place, pictures_of) for result, place in pairs]
    written = _write(settings, results, entries, "".join(more), warnings)
    return Report(tuple(tables), warnings, written)


def _check_files(settings: ReportConfig) -> None:
    """Refuse what cannot be written before anything is read."""
    if settings.export_cohen is not None and len(settings.paths) > 1:
        raise UserError(f"--export-cohen writes one result, but {len(settings.paths)} were given")
    if settings.plot is not None:
        check_suffix(settings.plot)


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
    more: str,
    warnings: Sequence[str],
) -> tuple[str, ...]:
    """Write the files that are asked for; returns their addresses."""
    written = []
    if settings.plot is not None:
        style = Style(title=settings.title, size=settings.size, notes=tuple(warnings))
        points = {each.name: each.certified for each in entries if each.certified}
        if settings.plot_of == "accuracy":
            figure = accuracy.draw(results, style, published=points)
        else:
            figure = PLOTS[settings.plot_of](results, style)
        save(figure, settings.plot)
        written.append(settings.plot)
    layout = _layout(settings, ())
    if settings.leaderboard is not None:
        path = settings.html or str(Place.of(settings.leaderboard) / "leaderboard.html")
        write_file(path, leaderboard.build(results, warnings=warnings, layout=layout).encode())
        written.append(path)
    elif settings.html is not None:
        text = page.build(results, warnings=warnings, layout=layout, more=more)
        write_file(settings.html, text.encode())
        written.append(settings.html)
    if settings.export_cohen is not None:
        if len(results) != 1:
            raise UserError(f"--export-cohen writes one result, but {len(results)} were given")
        cohen.write_log(settings.export_cohen, results[0])
        written.append(settings.export_cohen)
    return tuple(written)


def report_of_trainings(
    settings: ReportConfig, runs: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Report:
    """Return the last epoch of each RUN, and draw all; `runs` holds their metrics by name."""
    if settings.plot is not None:
        style = Style(title=settings.title, size=settings.size)
        save(training.draw(runs, style), settings.plot)
    last = {name: {**lines[-1], "epoch": lines[-1]["epoch"] + 1} for name, lines in runs.items()}
    rows = [[name, *(line.get(each) for each in EPOCH_FIGURES)] for name, line in last.items()]
    shown = PlainTable(["run", *EPOCH_FIGURES], rows, settings.title, "the last epoch of each run")
    return Report((shown,), [], (settings.plot,) if settings.plot is not None else ())
