"""Live progress for people: bars on a terminal or in a notebook, lines on stderr elsewhere."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rsray.errors import printable
from rsray.progress import Watch, duration

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from rsray.distributed.search.watch import TrialEvent
    from rsray.training.loop import Progress


# Figures of 78 characters have room on a terminal of so many columns: the bar only beyond.
COLUMNS_OF_A_BAR, COLUMNS_OF_A_CLOCK = 110, 90
# Without a terminal, of long work: a line a minute, and for each so much of the work.
LINE_EVERY_SECONDS, LINE_EVERY_SHARE, LEAST_SECONDS_BETWEEN_LINES = 60.0, 0.05, 5.0
LOOK_EVERY_SECONDS = 1.0
# When a line was last said, by whatever part of this process.
SAID = {"last": 0.0}


def show(text: str) -> None:
    """Write a line of what a command answers to stdout, as text whatever names are in it."""
    print(printable(text, keep="\n\t"))


def say(text: str) -> None:
    """Write a line for people to stderr: stdout is for results."""
    lines = printable(text, keep="\n")
    sys.stderr.write(f"{lines}\n")
    sys.stderr.flush()
    SAID["last"] = time.monotonic()


@contextmanager
def bars() -> Iterator[Bars]:
    """Show progress bars while the block runs; where they cannot be drawn, a line a minute."""
    from rich.console import Console
    from rich.progress import BarColumn, ProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Shown

    console = Console(stderr=True)
    columns: list[ProgressColumn] = [TextColumn("{task.description}")]
    if console.width >= COLUMNS_OF_A_BAR:
        columns = [TextColumn("{task.description:<10}"), BarColumn(24)]
    columns.append(TextColumn("{task.fields[figures]}"))
    if console.width >= COLUMNS_OF_A_CLOCK:
        columns.append(TimeElapsedColumn())
    can_draw = console.is_terminal or console.is_jupyter
    with Shown(*columns, console=console, disable=not can_draw, transient=False) as shown:
        ended = threading.Event()
        if shown.disable:
            threading.Thread(target=_remind, args=(shown, ended), daemon=True).start()
        try:
            yield shown
        finally:
            ended.set()


def _remind(shown: Bars, ended: threading.Event) -> None:
    """Say where the work is whenever a minute has passed without a line, until it has ended."""
    SAID["last"] = time.monotonic()
    while not ended.wait(LOOK_EVERY_SECONDS):
        if time.monotonic() - SAID["last"] > LINE_EVERY_SECONDS and shown.tasks:
            task = shown.tasks[-1]
            say(f"{task.description}, still at: {task.fields['figures']}")


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


@dataclass
class PacedLines:
    """Lines for whoever reads a log: rare ones, the first a while after the first news."""

    every_share: float = LINE_EVERY_SHARE
    # When, and how much was done: at the first news, and at the last line.
    began: tuple[float, float] | None = None
    said: tuple[float, float] = (0.0, 0.0)

    def _begin(self, share: float) -> tuple[float, float]:
        if self.began is None:
            self.began = self.said = (time.monotonic(), share)
        return self.began

    def say(self, share: float, text: str) -> None:
        """Say a line if one is due, with so much of the work done."""
        self._begin(share)
        since, further = time.monotonic() - self.said[0], share - self.said[1]
        is_far = further >= self.every_share and since >= LEAST_SECONDS_BETWEEN_LINES
        if is_far or since >= LINE_EVERY_SECONDS:
            say(text)
            self.told(share)

    def told(self, share: float) -> None:
        """Take it that a line was said now."""
        self._begin(share)
        self.said = (time.monotonic(), share)

    def left(self, share: float) -> str:
        """Return the time that is left, at the pace so far; nothing where that is not known."""
        when, before = self._begin(share)
        if share <= before:
            return ""
        return f"  {duration((time.monotonic() - when) * (1 - share) / (share - before))} left"


class TrainingBar:
    """An epoch-by-epoch bar; where none can be drawn, lines for each epoch and within long ones."""

    def __init__(self, shown: Bars) -> None:
        # Each epoch has a line of its own: within it one a minute is enough.
        self.shown, self.lines, self.loss = shown, PacedLines(every_share=math.inf), ""
        # Of the epoch under way: its number, and when how many draws were first told of.
        self.pace = (-1, 0.0, 0)
        self.task = shown.add_task("train", figures="starting", total=1.0)

    def __call__(self, progress: Progress) -> None:
        """Show where training is."""
        row, epochs = progress.epoch_figures, progress.epochs
        within = 0 if progress.is_weighing else progress.step / progress.steps
        done = progress.epoch + (1 if row else within)
        share = done / epochs
        if row is not None:
            self.loss = f"  loss {row['loss']:.4f}"
            right = row["noisy_accuracy"]
            accuracy = "" if right is None else f"  noisy accuracy {right:.1%}"
            if dropped := row.get("images_dropped"):
                accuracy += f"  {dropped:,} images dropped"
            figures = (
                f"epoch {row['epoch'] + 1}/{epochs}{self.loss}{accuracy}  "
                f"{row['draws_per_second']:,.0f} draws/s"
            )
        elif progress.is_weighing:
            weighed = f"{progress.step:,}/{progress.steps:,}"
            figures = f"epoch {progress.epoch + 1}/{epochs}  weighing images {weighed}"
        else:
            # A line has room for it, 80 columns with a bar have not.
            speed = self._speed(progress) if self.shown.disable else ""
            figures = (
                f"epoch {progress.epoch + 1}/{epochs}  step {progress.step:,}/{progress.steps:,}"
                f"{speed}{self.loss}{self.lines.left(share)}"
            )
        self.shown.update(self.task, total=epochs, completed=done, figures=figures)
        if not self.shown.disable:
            return
        if row is None:
            self.lines.say(share, figures)
        else:
            say(figures)
            self.lines.told(share)

    def _speed(self, progress: Progress) -> str:
        """Return the draws per second in this epoch; nothing where that is not known."""
        now = time.monotonic()
        if self.pace[0] != progress.epoch:
            self.pace = (progress.epoch, now, progress.draws)
        _, since, before = self.pace
        made = progress.draws - before
        return f"  {made / (now - since):,.0f} draws/s" if made > 0 and now > since else ""


class CertifyBar:
    """Images done, draws per second, running ACR, time left; lines where no bar can be drawn."""

    def __init__(self, shown: Bars) -> None:
        self.shown, self.lines = shown, PacedLines()
        self.task = shown.add_task("certify", figures="starting", total=1.0)

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
        total, figures = max(now["draws_owed"], 1), "  ".join(parts)
        self.shown.update(self.task, total=total, completed=now["draws"], figures=figures)
        if self.shown.disable:
            self.lines.say(now["draws"] / total, figures)


@dataclass
class Screen:
    """One bar for each phase of the work, from its announcement or its first news on."""

    shown: Bars
    training_bar: TrainingBar | None = None
    certify_bar: CertifyBar | None = None
    search_task: Any = None
    search_lines: PacedLines = field(default_factory=PacedLines)

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
        parts = (f"{event.finished}/{event.trials} trials", best, event.running)
        figures = "  ".join(part for part in parts if part)
        self.shown.update(
            self.search_task, total=event.trials, completed=event.finished, figures=figures
        )
        share = (event.finished + event.under_way) / event.trials
        if event.kind == "report":
            if self.shown.disable:
                self.search_lines.say(share, f"{figures}{self.search_lines.left(share)}")
            return
        self.search_lines.told(share)
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
    done = f"{event.finished}/{event.trials} done"
    return f"trial {event.number} ({done}): {setting}: {result}"
