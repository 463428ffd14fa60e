"""`rsray report`: results side by side, as the papers print them."""

from __future__ import annotations

from typing import Any

from rsray.config import ReportConfig
from rsray_cli.options import command, options_of, shown_fields


@command(options_of(ReportConfig, *shown_fields(ReportConfig)))
def report(paths: list[str], format: str = "table", **given: Any) -> None:
    """Show certified accuracy and ACR of results; warn where they are not comparable.

    Example: rsray report runs/digits-cert --plot curve.png --html page.html
    """
    import sys

    from rsray import api
    from rsray.screen import say
    from rsray_cli.results import print_table

    ReportConfig.make({"paths": paths, "format": format})
    found = api.report(paths, **given)
    for warning in found.warnings:
        say(f"warning: {warning}")
    if format == "table":
        print_table(found.table, wide=1000)
    else:
        sys.stdout.write(found.text(format))
