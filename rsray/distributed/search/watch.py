"""What a search tells of while it runs, and the Tune callback that tells it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, Protocol

from ray.tune import Callback

from rsray.progress import Watch

METRIC = "projected_acr"
TELL_EVERY_SECONDS = 10.0
MOST_LISTED = 8


@dataclass(frozen=True)
class TrialEvent:
    """Something to show: a trial reported, finished or failed."""

    # "report" (of a look, or that the search goes on), "done" or "failed".
    kind: str
    finished: int
    trials: int
    params: dict[str, Any]
    # As trials.parquet numbers it; None: it is of no trial.
    number: int | None = None
    epoch: int | None = None
    acr: float | None = None
    # Of the complete trials, those of an earlier start too.
    best: float | None = None
    error: str | None = None
    # Where the trials under way are, in words, and how many whole ones they make up.
    running: str = ""
    under_way: float = 0.0


class Standing(Protocol):
    """What the study knows of the trials: StudySearcher."""

    def number_of(self, trial_id: str) -> int | None:
        """Return the number of a trial that Tune calls so."""

    def best_acr(self) -> float | None:
        """Return the largest projected ACR of the complete trials, None before there is one."""


class Watcher(Callback):  # type: ignore[misc]
    """Passes on what trials report. Tune pickles its callbacks: what draws stays behind."""

    def __init__(self, trials: int, already: int, watch: Watch, standing: Standing | None) -> None:
        self.trials, self.finished, self.watch = trials, already, watch
        self.standing = standing
        self.best = standing.best_acr() if standing else None
        self.told = time.monotonic()
        # The epoch of each trial's last look; of those under way, which share of its epochs.
        self.epochs: dict[str, int] = {}
        self.shares: dict[str, float] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the functions that draw, and the study."""
        return {**self.__dict__, "watch": Watch(), "standing": None}

    def _tell(self, kind: str, trial: Any, result: dict[str, Any], running: str = "") -> None:
        error = result.get("error")
        standing, is_of_one = self.standing, trial is not None
        self.watch.trial(
            TrialEvent(
                kind,
                self.finished,
                self.trials,
                dict(trial.config) if is_of_one else {},
                number=standing.number_of(trial.trial_id) if standing and is_of_one else None,
                epoch=result.get("epoch"),
                acr=None if error else result.get(METRIC),
                best=self.best,
                error=error,
                running=running,
                under_way=sum(self.shares.values()),
            )
        )
        self.told = time.monotonic()

    def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
        """Tell, now and then, that trials are under way: a look may be hours after the last."""
        if time.monotonic() - self.told < TELL_EVERY_SECONDS:
            return
        looks = [self.epochs.get(each.trial_id, 0) for each in trials if each.status == "RUNNING"]
        running = f"{len(looks)} running, last looks at epoch {_listed(looks)}" if looks else ""
        self._tell("report", None, {}, running)

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any
    ) -> None:
        """Tell of a look at a trial."""
        # An error is told at the trial's end, which follows.
        if "error" not in result:
            epoch = self.epochs[trial.trial_id] = result.get("epoch", 0)
            self.shares[trial.trial_id] = epoch / result.get("epochs", math.inf)
            self._tell("report", trial, result)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Tell of a trial that ended, early or at full length."""
        self._tell_end("failed" if "error" in (trial.last_result or {}) else "done", trial)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Tell of a trial whose process was lost too often."""
        self._tell_end("failed", trial)

    def _tell_end(self, kind: str, trial: Any) -> None:
        self.finished += 1
        self.shares.pop(trial.trial_id, None)
        if self.standing is not None:
            # The study was told before.
            self.best = self.standing.best_acr()
        self._tell(kind, trial, trial.last_result or {})


def _listed(epochs: list[int]) -> str:
    more = ", ..." if len(epochs) > MOST_LISTED else ""
    return ", ".join(map(str, epochs[:MOST_LISTED])) + more
