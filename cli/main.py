"""`rsray`: the commands, and what becomes of errors."""

from __future__ import annotations

import errno
import sys
from typing import NoReturn

import typer

from rsray_cli.certificates import audit, recertify, verify
from rsray_cli.certify import certify
from rsray_cli.cluster import app as cluster
from rsray_cli.data import data
from rsray_cli.doctor import doctor
from rsray_cli.plan import plan
from rsray_cli.predict import predict
from rsray_cli.presets import presets
from rsray_cli.report import report
from rsray_cli.results import show
from rsray_cli.train import export, train
from rsray_cli.tune import tune

# typer carries a click of its own in some releases: its base exception is found through it.
ClickException: type[Exception] = next(
    c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException"
)
DONE, OURS, MISTAKE, INTERRUPTED = 0, 1, 2, 130
# Faults of the machine or the path that the user can put right.
USER_ERRNOS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.EEXIST,
}

SAVED = "interrupted: what was done is saved; the same command with the same --out continues"

app = typer.Typer(
    name="rsray",
    help="Provably robust image classifiers by randomized smoothing: search, train, certify, report.\n\n"
    "Start with: **rsray tune --dataset digits**",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    tune, train, certify, recertify, verify, audit, plan, predict, report, show, export, presets,
    doctor,
):  # fmt: skip
    app.command()(command)
app.add_typer(cluster, name="cluster")
app.add_typer(data, name="data")


@app.callback(invoke_without_command=True)
def root(
    version: bool = typer.Option(False, "--version", help="Print the version and stop."),
) -> None:
    """Print the version, or run a command."""
    if version:
        from rsray import __version__

        typer.echo(f"rsray {__version__}")
        raise typer.Exit


def run() -> NoReturn:
    """Run the command line; the exit status is 0, 2 for the user's mistake, 130 when interrupted."""
    try:
        status = app(args=sys.argv[1:], standalone_mode=False)
    except ClickException as problem:
        _stop(problem.format_message(), MISTAKE)  # type: ignore[attr-defined]
    except (KeyboardInterrupt, typer.Abort):
        _stop(SAVED, INTERRUPTED)
    except OSError as problem:
        if problem.errno not in USER_ERRNOS:
            raise
        where = f": {problem.filename}" if problem.filename else ""
        _stop(f"{(problem.strerror or str(problem)).lower()}{where}", MISTAKE)
    except ValueError as problem:
        from rsray.errors import UserError

        if not isinstance(problem, UserError):
            raise
        _stop(str(problem), MISTAKE)
    if status == INTERRUPTED:  # how typer tells of Ctrl-C
        _stop(SAVED, INTERRUPTED)
    sys.exit(status if isinstance(status, int) else DONE)


def _stop(message: str, status: int) -> NoReturn:
    from rsray.errors import printable

    line = printable(" ".join(message.split()))
    print(f"error: {line}" if status == MISTAKE else line, file=sys.stderr)
    sys.exit(status)
