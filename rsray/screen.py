"""Live progress for people: bars on a terminal or in a notebook, lines on stderr elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rsray.errors import printable
from rsray.progress import Watch, duration

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from rsray.distributed.search.watch import TrialEvent
    from rsray.training.loop import Progress


def show(text: str) -> None:
    """Write a line of what a command answers to stdout, as text whatever names are in it."""
    print(printable(text, keep="\n\t"))


def say(text: str) -> None:
    """Write a line for people to stderr: stdout is for results."""
    lines = printable(text, keep="\n")
    sys.stderr.write(f"{lines}\n")
    sys.stderr.flush()


@contextmanager
def bars() -> Iterator[Bars]:
    """Show progress bars while the block runs; none where they cannot be drawn."""
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
    can_draw = console.is_terminal or console.is_jupyter
    with Shown(*columns, console=console, disable=not can_draw, transient=False) as shown:
        yield shown


@contextmanager
def watching(progress: Watch | bool) -> Iterator[Watch]:
    """Yield what to tell: the caller's own watch, the screen (True) or nobody (False)."""
    if isinstance(progress, Watch):
        yield progress
    elif not progress:
        yield Watch()
    else:
        with bars() as shown:
            yield Screen(shown).watch()


class TrainingBar:
    """An epoch-by-epoch bar; where none can be drawn, a line for each epoch."""

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
    """Images done, draws per second, running ACR, time left; quiet where no bar can be drawn."""

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


class Screen:
    """One bar for each phase of the work, from its announcement or its first news on."""

    def __init__(self, shown: Bars) -> None:
        """Draw with these bars."""
        self.shown = shown
        self.training_bar: TrainingBar | None = None
        self.certify_bar: CertifyBar | None = None
        self.search_task: Any = None

    def watch(self) -> Watch:
        """Return the callbacks that draw."""
        return Watch(say, self.phase, self.training, self.certifying, self.trial)

    def phase(self, name: str) -> None:
        """Begin a bar."""
        if name == "search":
            self.search_task = self.shown.add_task("search", figures="starting", total=None)
        elif name.startswith("train"):
            self.training_bar = TrainingBar(self.shown)
        else:
            self.certify_bar = CertifyBar(self.shown)
        if self.shown.disable:
            say(f"phase: {name}")

    def training(self, progress: Progress) -> None:
        """Show where a training is."""
        self.training_bar = self.training_bar or TrainingBar(self.shown)
        self.training_bar(progress)

    def certifying(self, snapshot: dict[str, Any]) -> None:
        """Show where a certification is."""
        self.certify_bar = self.certify_bar or CertifyBar(self.shown)
        self.certify_bar(snapshot)

    def trial(self, event: TrialEvent) -> None:
        """Show a look at a trial, or how it ended."""
        best = f"best projected ACR {event.best:.3f}" if event.best is not None else ""
        figures = f"{event.finished}/{event.trials} trials  {best}"
        self.shown.update(
            self.search_task, total=event.trials, completed=event.finished, figures=figures
        )
        if event.kind == "report":
            return
        line = _trial_line(event)
        if self.shown.disable:
            say(line)
        else:
            self.shown.console.print(printable(line), highlight=False, markup=False)


def _trial_line(event: TrialEvent) -> str:
    setting = ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in event.params.items()
    )
    if event.kind == "failed":
        result = f"failed: {event.error or 'its process was lost'}"
    elif event.acr == 0:
        result = f"no better than guessing at epoch {event.epoch}"
    else:
        result = f"projected ACR {event.acr:.3f} at epoch {event.epoch}"
    return f"trial {event.finished}/{event.trials}: {setting}: {result}"
