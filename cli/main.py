"""`rsray`: the commands, and what becomes of errors."""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import os
import signal
import sys
import time
from typing import NoReturn

import typer

from rsray.errors import LostProcessError, UserError, printable
from rsray_cli.certificates import audit, recertify, verify
from rsray_cli.certify import certify
from rsray_cli.cluster import app as cluster
from rsray_cli.data import data
from rsray_cli.doctor import doctor
from rsray_cli.options import check_words
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
DONE, OURS, MISTAKE = 0, 1, 2
# The exit status is this and the number of the signal.
SIGNALLED = 128
# A terminal and `uv run` or `timeout` may each send a signal that was meant once.
SECONDS_BETWEEN_SIGNALS = 0.5
# Faults of the machine or the path that the user can put right.
USER_ERRNOS = {
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR,
    errno.EISDIR, errno.ENAMETOOLONG, errno.ENOENT, errno.EEXIST, errno.ELOOP,
}  # fmt: skip
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


class _Printable(logging.Formatter):
    """What the log says, as text whatever names are in it."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), keep="\n\t")


class Interrupts:
    """Ends the command by the first signal, saving what there is, and at once by the second."""

    def __init__(self) -> None:
        self.signal, self.since = signal.SIGINT, 0.0

    def listen(self) -> None:
        """Listen to the signals that end a command; one that is ignored stays so (`nohup`)."""
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(each) != signal.SIG_IGN:
                signal.signal(each, self)

    @property
    def status(self) -> int:
        """The exit status of a command that was interrupted."""
        return SIGNALLED + self.signal

    def __call__(self, number: int, frame: object) -> None:
        """Take a signal."""
        if not self.since:
            self.signal, self.since = signal.Signals(number), time.monotonic()
            raise KeyboardInterrupt
        if time.monotonic() - self.since > SECONDS_BETWEEN_SIGNALS:
            # The progress bars have hidden the cursor.
            shown = "\x1b[?25h" if sys.stderr.isatty() else ""
            _stop_now(f"{shown}{SAVED}", self.status)


def run() -> NoReturn:
    """Run the command line; the exit status is 0, 2 for the user's mistake, 130 when interrupted.

    It is 1 for our mistakes and processes that are lost, 143 when terminated.
    """
    interrupts = Interrupts()
    interrupts.listen()
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Printable())
    try:
        _leave_matplotlibrc()
        check_words(sys.argv[1:])
        status = app(args=sys.argv[1:], standalone_mode=False)
    except ClickException as problem:
        _stop(problem.format_message(), MISTAKE)  # type: ignore[attr-defined]
    except (KeyboardInterrupt, typer.Abort):
        _stop(SAVED, interrupts.status)
    except OSError as problem:
        if problem.errno not in USER_ERRNOS:
            raise
        where = f": {problem.filename}" if problem.filename else ""
        _stop(f"{(problem.strerror or str(problem)).lower()}{where}", MISTAKE)
    except LostProcessError as problem:
        if interrupts.since:
            _stop_now(SAVED, interrupts.status)
        _stop_now(printable(str(problem)), OURS)
    except UserError as problem:
        _stop(str(problem), MISTAKE)
    # How typer tells of Ctrl-C
    if status == SIGNALLED + signal.SIGINT:
        _stop(SAVED, interrupts.status)
    # At its exit Python would otherwise go through all that torch holds, for a second or two;
    # triton's bindings complain of what is left.
    if "triton" not in sys.modules:
        gc.freeze()
    sys.exit(status if isinstance(status, int) else DONE)


def _leave_matplotlibrc() -> None:
    """Let matplotlib take no settings from the current folder: they may ask for other programs."""
    if os.path.exists("matplotlibrc"):
        with contextlib.chdir(os.path.dirname(sys.executable)):
            import matplotlib  # noqa: F401


def _stop_now(line: str, status: int) -> NoReturn:
    """End without what is done at the end: Ray would wait for processes that are dead."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
    os._exit(status)


def _stop(message: str, status: int) -> NoReturn:
    line = printable(" ".join(message.split()))
    print(f"error: {line}" if status == MISTAKE else line, file=sys.stderr)
    sys.exit(status)
