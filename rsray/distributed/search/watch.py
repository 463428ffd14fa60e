"""What a search tells of while it runs, and the Tune callback that tells it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray.tune import Callback

from rsray.progress import Watch

METRIC = "projected_acr"


@dataclass(frozen=True)
class TrialEvent:
    """Something to show: a trial reported, finished or failed."""

    # "report", "done" or "failed".
    kind: str
    finished: int
    trials: int
    params: dict[str, Any]
    epoch: int | None = None
    acr: float | None = None
    best: float | None = None
    error: str | None = None


class Watcher(Callback):  # type: ignore[misc]
    """Passes on what trials report. Tune pickles its callbacks: what draws stays behind."""

    def __init__(self, trials: int, already: int, watch: Watch) -> None:
        self.trials, self.finished, self.watch = trials, already, watch
        self.best: float | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the functions that draw."""
        return {**self.__dict__, "watch": Watch()}

    def _tell(self, kind: str, trial: Any, result: dict[str, Any]) -> None:
        error = result.get("error")
        acr = None if error else result.get(METRIC)
        if acr is not None:
            self.best = acr if self.best is None else max(self.best, acr)
        finished, trials, params = self.finished, self.trials, dict(trial.config)
        epoch = result.get("epoch")
        told = TrialEvent(kind, finished, trials, params, epoch, acr, self.best, error)
        self.watch.trial(told)

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any
    ) -> None:
        """Tell of a look at a trial."""
        # An error is told at the trial's end, which follows.
        if "error" not in result:
            self._tell("report", trial, result)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Tell of a trial that ended, early or at full length."""
        self.finished += 1
        result = trial.last_result or {}
        self._tell("failed" if "error" in result else "done", trial, result)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Tell of a trial whose process was lost too often."""
        self.finished += 1
        self._tell("failed", trial, trial.last_result or {})
