"""What commands end with (a table, what failed, a search's results), and `rsray show`."""

from __future__ import annotations

from os import PathLike
from shlex import quote
from typing import TYPE_CHECKING, Any

from rsray.config import ShowConfig
from rsray.errors import UserError
from rsray.screen import say
from rsray_cli.options import command, options_of

if TYPE_CHECKING:
    from rsray.config import TuneConfig
    from rsray.outcomes import Study
    from rsray.results.formats import Table

# Columns of a file or pipe
WIDE = 200
# Images without a certificate
MOST_NAMED = 20


@command(options_of(ShowConfig))
def show(cert: str, index: int | None = None, **given: Any) -> None:
    """Explain the certificate of one image in words, and draw the image with noise.

    Example: rsray show runs/digits-cert --index 0 --png image.png
    """
    from rsray import api
    from rsray.results.compare import cert_folder

    if index is None:
        raise UserError("give --index: which image of CERT")
    print(api.show(cert, index, **given))
    if "png" in given:
        say(f"written      {given['png']}")
    folder, named = cert_folder(cert), quote(cert)
    # What has no counts, such as a log, does not say how its noise was made.
    if "png" in given or folder is None or not folder.exists("counts"):
        say(f"next: rsray report {named} --html page.html")
    else:
        say(f"next: rsray show {named} --index {index} --png image.png")


def print_results(*paths: str | PathLike[str]) -> None:
    """Print the papers' table of the results on stdout."""
    from rsray import api

    print_table(api.report(list(paths)).table, has_notes=True)


def print_table(table: Table, wide: int = WIDE, *, has_notes: bool = False) -> None:
    """Print a table as wide as the terminal; into a pipe or file nothing has to fit."""
    from rich.console import Console

    from rsray.results.formats import rich_table

    console = Console()
    width = console.width if console.is_terminal else wide
    Console(width=width).print(rich_table(table, width=width, has_notes=has_notes))


def name_failures(failed: dict[str, str], what: str = "certificate") -> int:
    """Say on stderr which images have no certificate or prediction, and why; returns how many."""
    for index, reason in list(failed.items())[:MOST_NAMED]:
        say(f"failed: image {index}: {reason}")
    if failed:
        say(f"{len(failed)} images have no {what}; they count 0 in the figures above")
    return len(failed)


def show_results(study: Study) -> int:
    """Print the results on stdout, and on stderr where everything is.

    Returns how many test images have no certificate; they are named.
    """
    where, finals = study.place, study.finals
    config = study.config
    if config.sampler == "grid" or len(config.objectives) > 1:
        _show_trials(study, config)
    if finals.best is not None:
        _show_certificates(study)
    if finals.won:
        say(f"the winner is the {finals.rival} itself")
    saved = study.early_stopping
    if saved.stopped:
        say(f"saved        {saved}")
    say(f"page         {where / 'tune.html'}  (its pictures: {where / 'plots'})")
    # On an object store the journal is in segments, which the dashboard cannot open.
    shows = f"  (optuna-dashboard {where / 'study.journal'} shows them)" if where.is_local else ""
    say(f"trials       {where / 'trials.parquet'}{shows}")
    say(f"winner       {where / 'best.yaml'}  (again: rsray train --config {where / 'best.yaml'})")
    return sum(name_failures(done["failed"]) for done in (finals.best, finals.paper) if done)


def follow_up(study: Study) -> str:
    """Return what may be run after a search."""
    if study.finals.best is None:
        return f"next: rsray train --config {quote(str(study.place / 'best.yaml'))}"
    return f"next: rsray show {quote(str(study.place / 'best' / 'certificates'))} --index 0"


def _show_certificates(study: Study) -> None:
    """Print the table and the ACR of the winner and its rival, and draw their curves."""
    from rsray import api

    where, finals = study.place, study.finals
    assert finals.best is not None
    folders = [where / "best" / "certificates"]
    folders += [where / "paper" / "certificates"] if finals.paper else []
    print_results(*folders)
    num_selected = finals.best["num_images"] + len(finals.best["failed"])
    print(f"ACR {finals.best['acr']:.4f} over {num_selected} test images")
    if finals.paper is not None:
        print(f"ACR {finals.paper['acr']:.4f} of the {finals.rival}, on the same images")
    curve = where / "radius-accuracy.png"
    api.report(folders, plot=curve)
    say(f"curve        {curve}")
    say(f"certificates {', '.join(map(str, folders))}")


def _show_trials(study: Study, config: TuneConfig) -> None:
    """Print on stdout the table of a grid, or of the trials on the Pareto front."""
    from rsray.results.formats import Table
    from rsray.results.pages.notebook import ENDS

    is_grid = config.sampler == "grid"
    names = ["number", *config.search, "projected_acr", "clean_accuracy", "state"]
    rows = [row for row in study.trials.to_pylist() if is_grid or row["pareto"]]
    rows = [{**row, "state": ENDS[row["state"]]} for row in rows]
    header = [name.replace("_", " ") for name in names]
    title = "" if is_grid else "Pareto front"
    cells = [[row.get(name) for name in names] for row in rows]
    print_table(Table(header, cells, title=title))
