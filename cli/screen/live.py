"""Live progress on a terminal: rich bars on stderr; milestones only when it is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from rsray.training.loop import Progress


def say(text: str) -> None:
    """Print a line for people on stderr: stdout is for results."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def bars() -> Iterator[Bars]:
    """Show progress bars while the block runs; nothing when stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Shown

    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(24),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    with Shown(
        *columns, console=console, disable=not console.is_terminal, transient=False
    ) as shown:
        yield shown


class TrainingBar:
    """An epoch-by-epoch bar; on no terminal, a line for each epoch."""

    def __init__(self, shown: Bars) -> None:
        """Add the bar."""
        self.shown = shown
        self.task = shown.add_task("train", figures="starting", total=1.0)

    def __call__(self, progress: Progress) -> None:
        """Show where training is."""
        row = progress.epoch_figures
        if row is None:
            done = progress.epoch + progress.step / progress.steps
            self.shown.update(self.task, total=progress.epochs, completed=done)
            return
        figures = (
            f"epoch {row['epoch'] + 1}/{progress.epochs}  loss {row['loss']:.4f}  "
            f"noisy accuracy {row['noisy_accuracy']:.1%}  {row['draws_per_second']:,.0f} draws/s"
        )
        self.shown.update(
            self.task, total=progress.epochs, completed=row["epoch"] + 1, figures=figures
        )
        if self.shown.disable:
            say(figures)


class CertifyBar:
    """Images done, draws per second, running ACR, time left; quiet on no terminal."""

    def __init__(self, shown: Bars) -> None:
        """Add the bar."""
        self.shown = shown
        self.task = shown.add_task("certify", figures="starting actors", total=1.0)

    def __call__(self, now: dict[str, Any]) -> None:
        """Show where certification is."""
        parts = [f"{now['images_done']:,}/{now['images']:,} images"]
        if now["draws_per_second"]:
            parts.append(f"{now['draws_per_second']:,.0f} draws/s")
        if now["acr"] is not None:
            error = now["acr_standard_error"]
            parts.append(f"ACR {now['acr']:.3f}" + (f" ± {error:.3f}" if error is not None else ""))
        if now["seconds_left"] is not None:
            parts.append(f"{duration(now['seconds_left'])} left")
        total = max(now["draws_owed"], 1)
        self.shown.update(self.task, total=total, completed=now["draws"], figures="  ".join(parts))


def duration(seconds: float) -> str:
    """Return a duration as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
