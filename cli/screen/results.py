"""The table that ends every command which makes certificates."""

from __future__ import annotations

from os import PathLike

WIDE = 200  # columns of a file or pipe
MOST_NAMED = 20  # images without a certificate


def show(*paths: str | PathLike[str]) -> None:
    """Print the papers' table of the results on stdout."""
    from rich.console import Console

    from rsray.results import compare, table

    built = table.build(compare.load_all(list(paths)))
    console = Console()
    width = console.width if console.is_terminal else WIDE
    Console(width=width).print(table.rich_table(built, width=width))


def name_failures(failed: dict[str, str], what: str = "certificate") -> int:
    """Say on stderr which images have no certificate or prediction, and why; returns how many."""
    from rsray_cli.screen.live import say

    for index, reason in list(failed.items())[:MOST_NAMED]:
        say(f"failed: image {index}: {reason}")
    if failed:
        counted = "count 0 in" if what == "certificate" else "are left out of"
        say(f"{len(failed)} images have no {what}; they {counted} the figures above")
    return len(failed)
