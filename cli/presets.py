"""`rsray presets`: the papers' settings."""

from __future__ import annotations

from typing import Annotated

import typer


def presets(
    name: Annotated[
        str | None, typer.Argument(help="Show this preset in full.", show_default=False)
    ] = None,
) -> None:
    """List the papers' settings with their cost and published figure, or show one."""
    from rsray.config import to_yaml
    from rsray.presets import preset, train_config
    from rsray.presets import presets as all_presets

    if name is not None:
        chosen = preset(name)
        print(f"# rsray train --preset {name}")
        print(f"# cost: {chosen.cost}; {_figure(chosen)}")
        settings = train_config({}, preset_name=name).model_dump(mode="json", exclude={"preset"})
        print(to_yaml(settings).decode(), end="")
        return
    import sys

    from rich.console import Console
    from rich.table import Table

    table = Table(
        "preset", "data set", "model", "sigma", "epochs", "published ACR", "cost", box=None
    )
    for found in all_presets().values():
        settings = found.settings
        table.add_row(
            found.name,
            settings["dataset"],
            settings["model"],
            f"{settings['sigma']:g}",
            str(settings["epochs"]),
            _figure(found),
            found.cost,
        )
    Console(width=None if sys.stdout.isatty() else 1000).print(table)


def _figure(chosen) -> str:  # type: ignore[no-untyped-def]
    if chosen.published_acr is None:
        return "no published figure"
    return f"{chosen.published_acr:.3f} ({chosen.source})"
