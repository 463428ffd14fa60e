"""`rsray report`: results side by side, as the papers print them."""

from __future__ import annotations

import shlex
import sys
from typing import Any

from rsray.config import ReportConfig
from rsray.screen import say
from rsray_cli.options import command, options_of
from rsray_cli.results import print_table


@command(options_of(ReportConfig))
def report(format: str = "table", **given: Any) -> None:
    """Show certified accuracy and ACR of results; warn where they are not comparable.

    Example: rsray report runs/digits-cert --plot curve.png --html page.html
    """
    from rsray import api

    ReportConfig.make({"paths": ["-"], "format": format})
    found = api.report(**given)
    for warning in found.warnings:
        say(f"warning: {warning}")
    if format != "table":
        sys.stdout.write(found.text(format))
    for position, table in enumerate(found.tables if format == "table" else ()):
        # On a terminal the warnings, which are the notes of the first table, stand above it.
        print_table(table, wide=1000, has_notes=position > 0 or not sys.stdout.isatty())
    for line in [*(f"written      {path}" for path in found.written), _next(given)]:
        say(line)


def _next(given: dict[str, Any]) -> str:
    paths = given.get("paths", [])
    if given.get("plot_of") == "training":
        return f"next: rsray certify {shlex.quote(paths[0])}"
    if not paths or given.get("html"):
        return f"next: rsray show {shlex.join(paths[:1]) or 'CERT'} --index 0"
    # Without these a log cannot be read again.
    told = {k.replace("_", "-"): str(v) for k, v in given.items() if k.startswith("log_")}
    options = [f"--{name}={value}" for name, value in told.items()]
    return f"next: rsray report {shlex.join([*paths, *options])} --html page.html"
