"""`rsray report`: results side by side, as the papers print them."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rsray.results.table import ReportTable

FORMATS = ("table", "markdown", "latex", "csv")
# Into a pipe or file nothing has to fit: there, no column may be folded.
PIPE_COLUMNS = 1000

Paths = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH...",
        help="CERT or TUNE folders, certificates.parquet files, Cohen-format logs.",
        show_default=False,
    ),
]
Format = Annotated[
    str, typer.Option(metavar="FORMAT", help=f"How to print it: {', '.join(FORMATS)}.")
]
Plot = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Draw the radius-accuracy curves: .png, .svg or .pdf."),
]
Html = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Write one self-contained page: curves, tables, parameters."),
]
Export = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help="Write one result as a Cohen-format log, radii rounded down."
    ),
]
Common = Annotated[
    bool, typer.Option("--common", help="Compare on the images that all results share.")
]
ByClass = Annotated[bool, typer.Option("--by-class", help="Print a row for each class.")]
Step = Annotated[float, typer.Option(metavar="STEP", help="Step between the radii of the table.")]
Label = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="What to call a result; once for each, in order."),
]


def report(
    paths: Paths,
    *,
    format: Format = "table",
    plot: Plot = None,
    html: Html = None,
    export_cohen: Export = None,
    common: Common = False,
    by_class: ByClass = False,
    radii: Step = 0.25,
    label: Label = None,
) -> None:
    """Show certified accuracy and ACR of results; warn where they are not comparable."""
    from rsray.results.report import report as make_report

    _check(paths, format=format, plot=plot, export_cohen=export_cohen)
    made = make_report(paths, labels=label or (), common=common, by_class=by_class, step=radii)
    for warning in made.warnings:
        typer.echo(f"warning: {warning}", err=True)
    _print(made.table, format)
    if plot is not None:
        made.save_plot(plot)
    if html is not None:
        made.save_page(html)
    if export_cohen is not None:
        made.export_log(export_cohen)


def _check(paths: list[str], *, format: str, plot: str | None, export_cohen: str | None) -> None:
    from rsray.errors import UserError

    if format not in FORMATS:
        raise UserError(f"format {format!r} is unknown; choose one of {', '.join(FORMATS)}")
    if export_cohen is not None and len(paths) > 1:
        raise UserError(f"--export-cohen writes one result, but {len(paths)} were given")
    if plot is not None:
        from rsray.results.plot import check_suffix

        check_suffix(plot)


def _print(shown: "ReportTable", format: str) -> None:
    from rsray.results import table

    if format != "table":
        typer.echo(table.TEXT_FORMATS[format](shown), nl=False)
        return
    import rich.console

    console = rich.console.Console()
    width = console.width if console.is_terminal else PIPE_COLUMNS
    rich.console.Console(width=width).print(table.rich_table(shown, width=width))
