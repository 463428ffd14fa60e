"""`rsray report`: results side by side, as the papers print them."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rsray.results.table import ReportTable

FORMATS = ("table", "markdown", "latex", "csv")


def report(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...",
            help="CERT or TUNE folders, certificates.parquet files, Cohen-format .tsv logs.",
            show_default=False,
        ),
    ],
    *,
    format: Annotated[
        str, typer.Option(metavar="FORMAT", help=f"How to print it: {', '.join(FORMATS)}.")
    ] = "table",
    plot: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Draw the radius-accuracy curves: .png, .svg or .pdf."),
    ] = None,
    html: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Write one self-contained page: curves, table, parameters."
        ),
    ] = None,
    export_cohen: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Write one result as a Cohen-format log, radii rounded down."
        ),
    ] = None,
    common: Annotated[
        bool, typer.Option("--common", help="Compare on the images that all results share.")
    ] = False,
    radii: Annotated[
        float,
        typer.Option(metavar="STEP", help="Step between the radii of the table."),
    ] = 0.25,
) -> None:
    """Show certified accuracy and ACR of results; warn where they are not comparable."""
    from rsray.results import cohen, compare, page, table
    from rsray.results import plot as plotting

    _check(paths, format=format, export_cohen=export_cohen)
    if plot is not None:
        plotting.check_suffix(plot)
    results = compare.load_all(paths)
    if common:
        results = compare.restrict(results, compare.common_indices(results))
    warnings = compare.differences(results)
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)
    _print(table.build(results, step=radii), format)
    if plot is not None:
        plotting.save_plot(results, plot)
    if html is not None:
        page.write_page(html, results, warnings=warnings, step=radii)
    if export_cohen is not None:
        cohen.write_log(export_cohen, results[0])


def _check(paths: list[str], *, format: str, export_cohen: str | None) -> None:
    from rsray.errors import UserError

    if format not in FORMATS:
        raise UserError(f"format {format!r} is unknown; choose one of {', '.join(FORMATS)}")
    if export_cohen is not None and len(paths) > 1:
        raise UserError(f"--export-cohen writes one result, but {len(paths)} were given")


def _print(shown: "ReportTable", format: str) -> None:
    from rsray.results import table

    if format != "table":
        typer.echo(table.TEXT_FORMATS[format](shown), nl=False)
        return
    import rich.console

    # Into a pipe or file nothing has to fit: there, no column may be folded.
    console = rich.console.Console()
    width = console.width if console.is_terminal else 1000
    rich.console.Console(width=width).print(table.rich_table(shown, width=width))
