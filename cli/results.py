"""The table that ends every command which makes certificates."""

from __future__ import annotations


def show(*paths: str) -> None:
    """Print the papers' table of the results on stdout."""
    from rich.console import Console

    from rsray.results import compare, table

    built = table.build(compare.load_all(list(paths)))
    console = Console()
    console.print(table.rich_table(built, width=console.width))
