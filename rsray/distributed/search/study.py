"""The Optuna study of a search: its durable record, and the table of its trials.

The study's storage (study_storage.py) holds every trial as soon as it is proposed, looked at or
ended. A search that is started again finds there what was finished; trials that were under way
wait to be run again, under their numbers and with their settings.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pyarrow as pa
from optuna.storages import JournalStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from rsray.config import MOST, TUNE_OBJECTIVES
from rsray.distributed.search.resolved_search import Search
from rsray.distributed.search.space import holds_value
from rsray.distributed.search.study_storage import STUDY_FILE, study_storage
from rsray.errors import UserError
from rsray.storage import Place, one_line
from rsray.storage.records import read_as
from rsray.storage.schemas import parquet_bytes

STUDY, TRIALS = "rsray", "trials.parquet"
# What Optuna raises when it replays records that are none of its own.
NO_JOURNAL = (
    ValueError, KeyError, TypeError, IndexError, AttributeError, AssertionError, RecursionError,
    RuntimeError, ArithmeticError, NotImplementedError, optuna.exceptions.OptunaError,
)  # fmt: skip


# Of a figure that some search could have; a number without a limit is no float to Optuna or Arrow.
MOST_FIGURE = 1e12


class TrialRecord(BaseModel):
    """What is recorded of a trial beside its settings and its figures."""

    model_config = ConfigDict(frozen=True, strict=True)

    source: str | None = None
    projected_acr: float | None = Field(None, ge=-MOST_FIGURE, le=MOST_FIGURE)
    clean_accuracy: float | None = Field(None, ge=-MOST_FIGURE, le=MOST_FIGURE)
    epoch: int | None = Field(None, ge=0, le=MOST)
    error: str | None = None


_TOLD = TypeAdapter(TrialRecord)
ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
SCHEMA = pa.schema(
    [
        pa.field(name, kind, metadata={"description": text})
        for name, kind, text in (
            ("number", pa.int64(), "order in which the settings were proposed, from 0"),
            ("state", pa.string(), "complete, pruned (stopped early by ASHA) or fail"),
            ("source", pa.string(), "paper, start, first (of an objective), grid, or the sampler"),
            ("projected_acr", pa.float64(), "at the last look, pixels; 0: no better than guessing"),
            ("clean_accuracy", pa.float64(), "of the smoothed classifier at the last look"),
            ("pareto", pa.bool_(), "no complete trial is better in every objective"),
            ("epoch", pa.int64(), "epochs trained at the last look"),
            ("seconds", pa.float64(), "from the proposal to the end"),
            ("error", pa.string(), "why the trial failed"),
        )
    ]
)


def open_study(out: Place, search: Search) -> optuna.Study:
    """Open the study of a search, ready to go on: what was under way waits to be run again.

    A new study holds the points that are tried first. The caller holds TUNE's lock.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if out.is_local:
        # A search that was killed in the middle of a record leaves Optuna's own lock behind, which
        # the next one would wait 30 seconds for.
        (out.local_path / f"{STUDY_FILE}.lock").unlink(missing_ok=True)
        out.refuse_link(STUDY_FILE)
        _cut_torn_line(out.local_path / STUDY_FILE)
    study, storage = _replayed(out, search)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
    for point, source in search.first_points[len(study.get_trials(deepcopy=False)) :]:
        study.enqueue_trial(point, user_attrs={"source": source})
    return study


def _replayed(out: Place, search: Search) -> tuple[optuna.Study, JournalStorage]:
    """Return the study that the journal holds, a new one without; UserError where it is damaged."""
    try:
        storage, directions = study_storage(out), [StudyDirection.MAXIMIZE] * len(search.metrics)
        study = optuna.create_study(
            storage=storage, study_name=STUDY, directions=directions, load_if_exists=True
        )
        if study.directions != directions:
            raise ValueError("it does not maximise what the search does")
        trials = study.get_trials(deepcopy=False)
    except NO_JOURNAL as problem:
        reason = f"{type(problem).__name__}: {one_line(problem)}"
        raise UserError(
            f"the journal of the search in {out} is damaged ({reason}): search again with another "
            "--out"
        ) from problem
    if not study.user_attrs:
        _describe(study, search)
    for trial in trials:
        _check_trial(trial, search, f"trial {trial.number} of the search in {out}")
    return study, storage


def _describe(study: optuna.Study, search: Search) -> None:
    """Say what is searched, for whoever opens the journal: optuna-dashboard, a notebook."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(search.metrics))
    told = search.config.train.model_dump(mode="json")
    told["objective"] = search.objectives
    for name in ("dataset", "model", "objective", "sigma", "epochs", "seed"):
        study.set_user_attr(name, told[name])


def _check_trial(trial: FrozenTrial, search: Search, name: str) -> None:
    """Raise UserError for a trial that no search of these settings records."""
    read_as(_TOLD, trial.user_attrs, name)
    own = trial.system_attrs
    if not isinstance(own, dict) or any(str(key).startswith("constraint") for key in own):
        raise UserError(f"{name} has constraints, or none of Optuna's attributes")
    for key, value in trial.params.items():
        if key not in search.space or not holds_value(search.space[key], value):
            raise UserError(f"{name}: {key} {value!r} is not in the search")
    figures = [
        value
        for value in trial.values or ()
        if isinstance(value, int | float) and abs(value) <= MOST_FIGURE
    ]
    has_figures = len(figures) == len(search.metrics)
    if trial.state == TrialState.COMPLETE and not (has_figures and trial.params):
        raise UserError(f"{name} is complete without its settings or its figures")
    if trial.state.is_finished() and not (trial.datetime_start and trial.datetime_complete):
        raise UserError(f"{name} has ended without a beginning or an end")


def _cut_torn_line(path: Path) -> None:
    """Cut off the line that a killed search left half-written: Optuna cannot read past it."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)


def ended_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that a search need not repeat."""
    return study.get_trials(deepcopy=False, states=ENDED)


def find_winner(study: optuna.Study) -> FrozenTrial:
    """Return the complete trial that is best in the first objective; UserError without any."""
    best = best_trial(study)
    if best is None:
        ends = [trial.user_attrs.get("error") or "stopped early" for trial in ended_trials(study)]
        reasons = "; ".join(f"{count} x {end}" for end, count in Counter(ends).most_common(3))
        raise UserError(
            f"no trial of the search succeeded: {reasons}. {TRIALS} in its folder has them all; "
            "search again with other settings and another --out"
        )
    return best


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """Return the complete trial that is best in the first objective, if any is complete."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    # Of equals the one that was proposed first: the published setting, as a rule.
    return max(complete, key=lambda trial: (trial.values[0], -trial.number), default=None)


def trial_rows(study: optuna.Study) -> list[dict[str, Any]]:
    """Return a row per trial that ended: SCHEMA's columns, then the settings."""
    trials = ended_trials(study)
    front = {trial.number for trial in study.best_trials}
    keys = sorted({key for trial in trials for key in trial.params})
    return [
        {
            "number": trial.number,
            "state": trial.state.name.lower(),
            "source": trial.user_attrs.get("source"),
            **{name: trial.user_attrs.get(name) for name in TUNE_OBJECTIVES.values()},
            "pareto": trial.number in front,
            "epoch": trial.user_attrs.get("epoch"),
            "seconds": trial.duration.total_seconds() if trial.duration else None,
            "error": trial.user_attrs.get("error"),
            **{key: trial.params.get(key) for key in keys},
        }
        for trial in trials
    ]


def write_trials(out: Place, study: optuna.Study, search: Search) -> None:
    """Write trials.parquet: a row per trial with its settings, result and cost."""
    rows = trial_rows(study)
    columns = [pa.array([row[field.name] for row in rows], field.type) for field in SCHEMA]
    fields = list(SCHEMA)
    for key in [key for key in (rows[0] if rows else {}) if key not in SCHEMA.names]:
        columns.append(_settings_column([row[key] for row in rows]))
        fields.append(pa.field(key, columns[-1].type, metadata={"description": "a setting"}))
    about = json.dumps(search.config.model_dump(mode="json"))
    schema = pa.schema(fields, metadata={b"rsray": about.encode()})
    out.write(TRIALS, parquet_bytes(pa.Table.from_arrays(columns, schema=schema)))


def _settings_column(values: list[Any]) -> Any:
    try:
        return pa.array(values)
    # A choice among things of several types.
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else str(value) for value in values])
