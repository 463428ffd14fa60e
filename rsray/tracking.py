"""Experiment trackers: MLflow and Weights & Biases are told what a command writes into its folder.

Where they are is said as they want it: MLFLOW_TRACKING_URI, WANDB_MODE, WANDB_PROJECT, ... The same
folder again continues the same run. A tracker that fails later on ends nothing: a line says so.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rsray.errors import UserError
from rsray.progress import Watch
from rsray.storage import Place

PROJECT = "rsray"
# What is small, and says what was done and what came of it.
ARTIFACTS = (
    "run.yaml", "metrics.jsonl", "README.md", "model.safetensors",
    "tune.yaml", "best.yaml", "trials.parquet", "tune.html",
    "certify.yaml", "summary.json", "certificates.parquet",
)  # fmt: skip
# Of summary.json: what came of it; its settings are told as settings.
RESULTS = (
    "acr", "acr_standard_error", "clean_accuracy", "abstained", "skipped", "draws", "seconds",
    "draws_per_second", "largest_certifiable_radius",
)  # fmt: skip


class Mlflow:
    """A run of MLflow, found again by its tag `rsray.folder`."""

    def __init__(self, name: str, where: str, settings: Mapping[str, Any]) -> None:
        """Begin the run, or continue the one of this folder."""
        import mlflow

        logging.getLogger("mlflow").setLevel(logging.ERROR)
        self.mlflow = mlflow
        mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        quoted = where.replace("'", "")
        found = mlflow.search_runs(
            filter_string=f"tags.`rsray.folder` = '{quoted}'", output_format="list"
        )
        if found:
            mlflow.start_run(run_id=found[0].info.run_id)
        else:
            mlflow.start_run(run_name=name, tags={"rsray.folder": quoted})
            # It takes no setting twice, and those of where it runs may change.
            mlflow.log_params(dict(settings))

    def log(self, figures: Mapping[str, float], step: int | None) -> None:
        """Take figures, of an epoch or of the whole."""
        self.mlflow.log_metrics(dict(figures), step=step)

    def finish(self, folder: Path, succeeded: bool) -> None:
        """Take the files of the folder, and end."""
        try:
            if succeeded:
                self.mlflow.log_artifacts(str(folder))
        finally:
            self.mlflow.end_run("FINISHED" if succeeded else "FAILED")


class Wandb:
    """A run of Weights & Biases, whose id is made of its folder."""

    def __init__(self, name: str, where: str, settings: Mapping[str, Any]) -> None:
        """Begin the run, or continue the one of this folder."""
        import wandb

        # It speaks on stdout, which is for results.
        quiet = wandb.Settings(silent=True)
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), name=name, config=dict(settings),
            id=hashlib.sha256(where.encode()).hexdigest()[:16], resume="allow", settings=quiet,
        )  # fmt: skip

    def log(self, figures: Mapping[str, float], step: int | None) -> None:
        """Take figures, of an epoch or of the whole."""
        if step is None:
            self.run.summary.update(dict(figures))
        else:
            self.run.log({**figures, "epoch": step})

    def finish(self, folder: Path, succeeded: bool) -> None:
        """Take the files of the folder, and end."""
        import wandb

        try:
            if succeeded:
                files = wandb.Artifact(f"{PROJECT}-{self.run.id}", type="result")
                for file in sorted(folder.iterdir()):
                    files.add_file(str(file))
                self.run.log_artifact(files)
        finally:
            self.run.finish(0 if succeeded else 1)


TRACKERS: dict[str, type[Mlflow] | type[Wandb]] = {"mlflow": Mlflow, "wandb": Wandb}


def check_tracker(track: str | None) -> None:
    """Raise UserError for a tracker that is unknown or not installed."""
    if track is None:
        return
    if track not in TRACKERS:
        raise UserError(f"track {track!r} is unknown; choose one of {', '.join(TRACKERS)}")
    if find_spec(track) is None:
        raise UserError(f"--track {track} needs it here: pip install 'rsray[{track}]'")


@contextmanager
def tracked(
    track: str | None, watch: Watch, place: Place, settings: Mapping[str, Any]
) -> Iterator[Watch]:
    """Yield a Watch that tells a tracker, too, of what is done in the block for this folder.

    Raises UserError where the tracker (see check_tracker) takes no run.
    """
    if track is None:
        yield watch
        return
    try:
        tracker = TRACKERS[track](place.name, place.uri, _flat(settings))
    except Exception as problem:
        raise UserError(f"{track} takes no run: {_first_line(problem)}") from problem
    careful = _Careful(tracker, track, watch)
    succeeded = False
    try:
        yield careful.watch
        succeeded = True
    finally:
        careful.finish(place, succeeded)


class _Careful:
    """Tells a tracker until it fails for the first time."""

    def __init__(self, tracker: Mlflow | Wandb, name: str, watch: Watch) -> None:
        self.tracker, self.name, self.told_first = tracker, name, watch
        self.works = True
        self.watch = replace(watch, training=self._epoch, trial=self._trial)

    def _epoch(self, progress: Any) -> None:
        self.told_first.training(progress)
        if progress.epoch_figures is not None:
            self._log(progress.epoch_figures, progress.epoch)

    def _trial(self, event: Any) -> None:
        self.told_first.trial(event)
        if event.kind == "done" and event.best is not None:
            self._log({"best_projected_acr": event.best}, event.finished)

    def _log(self, figures: Mapping[str, Any], step: int | None) -> None:
        numbers = {
            key: float(value)
            for key, value in figures.items()
            if isinstance(value, int | float) and key != "epoch"
        }
        self._attempt(lambda: self.tracker.log(numbers, step))

    def finish(self, place: Place, succeeded: bool) -> None:
        """Hand over the figures and files of the folder, and end the run."""
        if succeeded:
            self._log(_summary_of(place), None)
        with TemporaryDirectory() as folder:
            for name in ARTIFACTS if succeeded else ():
                if place.exists(name):
                    (Path(folder) / name).write_bytes(place.read(name))
            self._attempt(lambda: self.tracker.finish(Path(folder), succeeded))

    def _attempt(self, tell: Callable[[], None]) -> None:
        if not self.works:
            return
        try:
            tell()
        except Exception as problem:  # A server that is gone: the run goes on without it.
            self.works = False
            self.told_first.say(f"{self.name} takes no more of this run: {_first_line(problem)}")


def _summary_of(place: Place) -> dict[str, Any]:
    """Return the figures of a CERT, or of the winner's in a TUNE."""
    from rsray.results.summary import read_summary

    for folder in (place, place / "best" / "certificates"):
        if folder.exists("summary.json"):
            summary = read_summary(folder / "summary.json")
            curve = summary.get("certified_accuracy") or {}
            at_radii = {f"certified_accuracy_at_{radius}": curve[radius] for radius in curve}
            return {key: summary[key] for key in RESULTS if key in summary} | at_radii
    return {}


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings without those that are None, nested ones by a dotted name."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= {f"{key}.{name}": inner for name, inner in _flat(value).items()}
        elif value is not None:
            found[key] = value
    return found


def _first_line(problem: Exception) -> str:
    return (str(problem).strip() or type(problem).__name__).splitlines()[0]
