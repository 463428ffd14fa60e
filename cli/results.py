"""The table that ends every command which makes certificates."""

from __future__ import annotations

WIDE = 200  # columns of a file or pipe


def show(*paths: str) -> None:
    """Print the papers' table of the results on stdout."""
    from rich.console import Console

    from rsray.results import compare, table

    built = table.build(compare.load_all(list(paths)))
    console = Console()
    width = console.width if console.is_terminal else WIDE
    Console(width=width).print(table.rich_table(built, width=width))
