"""The command line in this process: its exit status and what it wrote, and never Ray."""

import contextlib
import functools
import io
import pkgutil
import sys
from dataclasses import dataclass
from unittest import mock

import typer.main

from rsray.distributed.certify import certifier
from rsray.distributed.certify.one_machine import own_processes
from rsray.errors import UserError
from rsray_cli.main import run

# Where commands would start Ray.
SESSIONS = [
    "rsray.distributed.session.session",
    "rsray.distributed.certify.certifier.session",
    "rsray.distributed.certify.audit.session",
    "rsray.distributed.train.trainer.session",
    "rsray.distributed.train.trainer._train_here",
    "rsray.distributed.search.tuner.session",
]
NO_RAY = "Ray would start now"
LONGEST_SECONDS = 60.0  # of a certification by this machine's processes, by its own forecast
# A module that is first imported under the patches would keep them.
for name in SESSIONS:
    pkgutil.resolve_name(name)


MADE_COMMANDS = functools.cache(typer.main.get_command)


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str


def refuse_ray(*given, **named):
    raise UserError(NO_RAY)


def refuse_long(run, fleet):
    processes, seconds = own_processes(run, fleet)
    if seconds > LONGEST_SECONDS:
        raise UserError("the certification would take long")
    return processes, seconds


def command(*arguments):
    """Run `rsray ARGUMENTS...`; what is no exit, such as our own faults, is raised."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as held:
        for name in SESSIONS:
            held.enter_context(mock.patch(name, refuse_ray))
        held.enter_context(mock.patch.object(certifier, "own_processes", refuse_long))
        # The tree of commands takes as long to make as a quick one takes to run.
        held.enter_context(mock.patch("typer.main.get_command", MADE_COMMANDS))
        held.enter_context(mock.patch.object(sys, "argv", ["rsray", *map(str, arguments)]))
        held.enter_context(mock.patch.object(sys, "path", list(sys.path)))
        held.enter_context(contextlib.redirect_stdout(out))
        held.enter_context(contextlib.redirect_stderr(err))
        try:
            run()
        except SystemExit as stopped:
            return Result(stopped.code or 0, out.getvalue(), err.getvalue())
