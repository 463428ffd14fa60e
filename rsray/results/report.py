"""Some results side by side: loaded, compared, and written as papers show them."""

from collections.abc import Sequence
from dataclasses import dataclass

from rsray.errors import UserError
from rsray.results import cohen, compare
from rsray.results.certificates import Certificates
from rsray.results.table import DEFAULT_STEP, ReportTable, build
from rsray.storage import PathLike


@dataclass(frozen=True)
class Report:
    """Results, how they are unlike, and their table at radii 0, step, 2 step ..."""

    results: tuple[Certificates, ...]
    warnings: tuple[str, ...]
    table: ReportTable
    step: float

    def save_plot(self, path: PathLike) -> None:
        """Draw the radius-accuracy curves into a .png, .svg or .pdf file."""
        from rsray.results import plot

        plot.save_plot(self.results, path)

    def save_page(self, path: PathLike) -> None:
        """Write one self-contained HTML page: curves, tables, parameters and warnings."""
        from rsray.results import page

        page.write_page(path, self.results, warnings=self.warnings, step=self.step)

    def export_log(self, path: PathLike) -> None:
        """Write the only result as a Cohen-format log, radii rounded down."""
        if len(self.results) > 1:
            raise UserError(f"a log holds one result, but {len(self.results)} were given")
        cohen.write_log(path, self.results[0])


def report(
    paths: Sequence[PathLike],
    *,
    labels: Sequence[str] = (),
    common: bool = False,
    by_class: bool = False,
    step: float = DEFAULT_STEP,
) -> Report:
    """Return the report of the results at some paths or URIs.

    `labels` name them, `common` keeps the images that all share, `by_class` gives the table a row
    for each class. Raises UserError for what is no result.
    """
    results = compare.load_all(paths, labels=labels)
    if common:
        results = compare.restrict(results, compare.common_indices(results))
    warnings = (*compare.failures(results), *compare.differences(results))
    rows = results
    if by_class:
        rows = [part for result in results for part in compare.by_class(result)]
    return Report(tuple(results), warnings, build(rows, step=step), step)
