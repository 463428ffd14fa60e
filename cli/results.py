"""The table that ends every command which makes certificates."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rsray.results.table import ReportTable

WIDE = 200  # columns of a file or pipe
MOST_NAMED = 20  # images without a certificate


def show(*paths: str | PathLike[str]) -> None:
    """Print the papers' table of the results on stdout."""
    from rsray import api

    print_table(api.report(list(paths)).table)


def print_table(table: ReportTable, wide: int = WIDE) -> None:
    """Print a table as wide as the terminal; into a pipe or file nothing has to fit."""
    from rich.console import Console

    from rsray.results.table import rich_table

    console = Console()
    width = console.width if console.is_terminal else wide
    Console(width=width).print(rich_table(table, width=width))


def name_failures(failed: dict[str, str], what: str = "certificate") -> int:
    """Say on stderr which images have no certificate or prediction, and why; returns how many."""
    from rsray.screen import say

    for index, reason in list(failed.items())[:MOST_NAMED]:
        say(f"failed: image {index}: {reason}")
    if failed:
        counted = "count 0 in" if what == "certificate" else "are left out of"
        say(f"{len(failed)} images have no {what}; they {counted} the figures above")
    return len(failed)
