"""What a notebook shows of a result: its figures first, in the notebook's own letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from rsray.results import table
from rsray.results.certificates import Certificates
from rsray.results.formats import Table
from rsray.results.pages import page
from rsray.results.plots import accuracy, training
from rsray.results.plots.style import Style

MOST_TRIALS = 10
TRAINED = ("dataset", "model", "objective", "sigma", "epochs", "batch_size", "lr", "seed")
TRIAL = ("number", "state", "source", "projected_acr", "clean_accuracy", "epoch")
NOT_SHOWN = {"pareto", "seconds", "error"}
# How trials end, as trials.parquet and Optuna call it -> as people read it, in the order of lists.
ENDS = {"complete": "complete", "pruned": "stopped early", "fail": "failed"}


def certificates_html(result: Certificates) -> str:
    """Return a CERT: the ACR, the radius-accuracy curve and the table."""
    return "".join(
        [
            page.headline([result]),
            page.inline_svg(accuracy.draw([result])),
            page.shown_html(table.build([result])),
        ]
    )


def training_html(
    name: str, metrics: Sequence[Mapping[str, Any]], record: Mapping[str, Any]
) -> str:
    """Return a RUN: its settings, and loss and accuracy by epoch where it has any."""
    facts = {key: record[key] for key in TRAINED if record.get(key) is not None}
    settings = page.facts_html({**facts, **(record.get("settings") or {})})
    if not metrics:
        return settings
    described = "Loss and accuracy on noisy training images by epoch."
    return settings + page.inline_svg(training.draw({name: metrics}, Style()), described)


def search_html(trials: pa.Table, winner: Certificates | None) -> str:
    """Return a TUNE: its best trials by projected ACR, then the winner's certificates."""
    rows = sorted(
        trials.to_pylist(),
        key=lambda row: ([*ENDS, row["state"]].index(row["state"]), -(row["projected_acr"] or 0.0)),
    )
    settings = [name for name in trials.column_names if name not in {*TRIAL, *NOT_SHOWN}]
    columns = [*TRIAL, *settings]
    said = [{**row, "state": ENDS.get(row["state"], row["state"])} for row in rows[:MOST_TRIALS]]
    cells = [[row[name] for name in columns] for row in said]
    count = f"the best {MOST_TRIALS} of {len(rows)} trials" if len(rows) > MOST_TRIALS else "trials"
    found = (
        f"<p>{count}, by projected ACR (an estimate)</p>\n{page.shown_html(Table(columns, cells))}"
    )
    return found + (certificates_html(winner) if winner is not None else "")
