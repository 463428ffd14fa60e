"""`rsray presets`: the papers' settings."""

from __future__ import annotations

import re
import sys
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

from rsray.screen import say

if TYPE_CHECKING:
    from rsray.presets import Preset

# macer-cifar10-0.25-lambda2: one of a row of presets that vary one setting
VARIED = re.compile(r"(?P<stem>.+?-[a-z]+)(?P<value>[0-9.]+)(?P<end>-k[0-9]+)?")
# Of those without a published figure, sigma may be the setting
VARIED_SIGMA = re.compile(r"(?P<stem>.+-)(?P<value>[0-9]\.[0-9]+)(?P<end>)")


def presets(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Show this preset in full, or list those with this in their name: mnist, macer-cifar10, 0.50.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """List the papers' settings with their cost and published figure, or show one.

    Example: rsray presets mnist; rsray presets macer-mnist-0.50; rsray train --preset macer-mnist-0.50
    """
    from rsray.presets import matching
    from rsray.presets import presets as all_presets

    found = all_presets()
    if name in found:
        _show(found[name])
    else:
        _list(matching(name) if name is not None else list(found.values()))


def _show(chosen: Preset) -> None:
    """Print one preset as a configuration file that `rsray train --config` takes."""
    from rsray.presets import train_config
    from rsray.storage.yaml_files import to_yaml

    print(f"# rsray train --preset {chosen.name}")
    print(f"# cost: {chosen.cost}")
    print(f"# published: {_published(chosen)}")
    if chosen.acr is not None and chosen.certified:
        print(f"# certified accuracy: {_accuracies(chosen)}")
    if chosen.figure:
        print("# then: rsray certify RUN" + f" {chosen.certify}".rstrip())
    if chosen.differs:
        print(f"# differs: {chosen.differs}")
    print(f"# paper: {chosen.paper}")
    settings = train_config({}, preset_name=chosen.name)
    print(to_yaml(settings.model_dump(mode="json", exclude={"preset"})).decode(), end="")


def _published(chosen: Preset) -> str:
    if chosen.acr is not None:
        return f"ACR {chosen.figure} ({chosen.source})"
    if not chosen.certified:
        return "no figure"
    return f"no ACR; certified accuracy {_accuracies(chosen)} ({chosen.source})"


def _accuracies(chosen: Preset) -> str:
    """Return the published accuracies with the digits of their table: two or three decimals."""
    decimals = 2 if all(round(each, 2) == each for each in chosen.certified.values()) else 3
    pairs = chosen.certified.items()
    return ", ".join(f"{accuracy:.{decimals}f} at {radius:g}" for radius, accuracy in pairs)


def _list(chosen: list[Preset]) -> None:
    """Print a table for each paper; presets that vary one setting share a row."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 1000, highlight=False)
    for paper, entries in groupby(chosen, key=lambda entry: entry.paper):
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column("preset", no_wrap=True)
        for title in ("epochs", "published ACR", "where", "cost"):
            table.add_column(title)
        for _, row in groupby(entries, key=_row_key):
            table.add_row(*_row(list(row)))
        console.print(f"[bold]{paper}[/bold]", table, "", sep="\n")
    if any(entry.certified and not entry.acr for entry in chosen):
        console.print(
            "65% at 0.25: no ACR was published, but this certified accuracy at that radius."
        )
    if any(entry.differs for entry in chosen):
        console.print("* not all settings are, or are known to be, the paper's.")
    say(f"next: rsray presets {chosen[0].name}; rsray train --preset {chosen[0].name}")


def _varied(entry: Preset) -> re.Match[str] | None:
    """Return the parts of a preset's name, if it is one of several that vary one setting."""
    found = None if entry.figure else VARIED_SIGMA.fullmatch(entry.name)
    return found or VARIED.fullmatch(entry.name)


def _row_key(entry: Preset) -> tuple[object, ...]:
    """Return what presets that share a row have in common; {1,2} stands for their values."""
    varied = _varied(entry)
    name = (varied["stem"], varied["end"]) if varied else entry.name
    return name, entry.cost, entry.source, entry.settings["epochs"], entry.differs


def _row(entries: list[Preset]) -> list[str]:
    """Return the cells of a row of one preset or of several that vary one setting."""
    name, first = entries[0].name, entries[0]
    if len(entries) > 1:
        parts = [_varied(entry) for entry in entries]
        values = ",".join(part["value"] for part in parts if part)
        name = f"{parts[0]['stem']}{{{values}}}{parts[0]['end'] or ''}" if parts[0] else name
    heads, at = [entry.figure.split(" ")[0] for entry in entries], first.figure.partition(" ")[2]
    figures = " ".join(heads).strip() or "-"
    star = " *" if first.differs else ""
    return [
        name,
        str(first.settings["epochs"]),
        f"{figures} {at}".strip() + star,
        first.source or "",
        first.cost,
    ]
