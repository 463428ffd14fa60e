"""What long work tells of itself while it runs; whoever watches draws with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def _ignore(*told: Any) -> None:
    """Do nothing with what is told."""


@dataclass(frozen=True)
class Watch:
    """Callbacks for what training, certification and search tell; the default watches nothing."""

    # A line for people
    say: Callable[[str], None] = _ignore
    # "search", "train", "certify", ... begins
    phase: Callable[[str], None] = _ignore
    # A rsray.training.loop.Progress
    training: Callable[[Any], None] = _ignore
    # The figures of progress.json
    certifying: Callable[[dict[str, Any]], None] = _ignore
    # A rsray.distributed.search.watch.TrialEvent
    trial: Callable[[Any], None] = _ignore


def duration(seconds: float) -> str:
    """Return a duration as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
