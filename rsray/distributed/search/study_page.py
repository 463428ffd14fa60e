"""TUNE/plots and TUNE/tune.html: what a search found, in pictures and on one page."""

from __future__ import annotations

import warnings
from typing import Any

import optuna
from matplotlib.figure import Figure
from optuna.trial import TrialState

from rsray.config import TUNE_OBJECTIVES
from rsray.distributed.search import study_plots
from rsray.distributed.search.resolved_search import Search
from rsray.distributed.search.study import SCHEMA, best_trial, trial_rows
from rsray.distributed.search.study_plots import Rows, show_setting
from rsray.results import compare
from rsray.results.pages import page
from rsray.results.pages.notebook import ENDS
from rsray.results.pages.provenance import provenance_html
from rsray.results.plots.style import SUFFIXES, render
from rsray.results.reading.sources import load_results
from rsray.storage import Place

PLOTS, PAGE = "plots", "tune.html"
# Before importances are drawn.
LEAST_COMPLETE = 10
CAPTIONS = {
    "history": "Every trial in the order of proposal. Projected ACR is an estimate from a few "
    "hundred draws on held-out training images, not a certificate.",
    "grid": "The grid: every combination, trained to its end.",
    "pareto": "Trials that no other beats in both objectives.",
    "importance": "Which setting explains the differences between complete trials (fANOVA).",
    "slices": "Results against each setting on its own; the others vary too.",
}


def write_study(out: Place, study: optuna.Study, search: Search) -> None:
    """Write the plots (.svg, .png and .pdf) and the page of a search."""
    folder = (out / PLOTS).make()
    for name, figure in draw_figures(trial_rows(study), study, search).items():
        for suffix in SUFFIXES:
            folder.write(name + suffix, render(figure, suffix))
    write_page(out, study, search)


def write_page(out: Place, study: optuna.Study, search: Search) -> None:
    """Write the page: its plots are the files, and certificates that exist are included."""
    rows, best = trial_rows(study), best_trial(study)
    config, train = search.config, search.config.train
    states = [ENDS[row["state"]] for row in rows]
    params = best.params if best else {}
    settings = ", ".join(f"{key} {show_setting(value)}" for key, value in params.items())
    facts = {
        "best": f"trial {best.number}: {settings}" if best else "no trial is complete",
        "trials": f"{len(rows)}: "
        + ", ".join(f"{states.count(end)} {end}" for end in ENDS.values()),
        "searched": config.search,
        **({"started from": config.starts} if config.starts else {}),
        "sampler": f"{config.sampler}, seed {config.seed}",
        "objectives": ", ".join(config.objectives),
        "judged on": f"{config.validation:.4g} of the training images, {config.num_draws} draws "
        f"each, every {config.report_every} epochs",
    }
    drawn = set((out / PLOTS).names(".svg"))
    pictures = (
        page.figure_html(
            page.svg_inside_html((out / PLOTS).read(f"{name}.svg").decode(), caption), caption
        )
        for name, caption in CAPTIONS.items()
        if f"{name}.svg" in drawn
    )
    heading = f"Search: {search.objectives} on {train.dataset}, sigma {train.sigma:g}"
    parts = (page.facts_html(facts), *pictures, "<h2>Trials</h2>", _trials_html(rows))
    found = "\n".join(["<h2>Search</h2>", *parts])
    trained = train.model_dump(mode="json").items()
    values = {key: "none" if value is None else value for key, value in trained}
    folded = page.folded_html("what was trained", values)
    text = page.document(heading, heading, f"{_certified_html(out, found)}\n{folded}")
    out.write(PAGE, text.encode())


def draw_figures(rows: Rows, study: optuna.Study, search: Search) -> dict[str, Figure]:
    """Return the figures that a search has enough trials for, in the order of the page."""
    metrics = search.metrics
    # A setting that only some objectives have may not have been tried.
    space = {key: each for key, each in search.space.items() if key in rows[0]} if rows else {}
    figures: dict[str, Figure] = {}
    figures["history"] = study_plots.draw_history(rows, metrics[0])
    if search.config.sampler == "grid":
        figures["grid"] = study_plots.draw_grid(rows, metrics[0], list(space))
    if len(metrics) > 1:
        figures["pareto"] = study_plots.draw_pareto(rows, metrics)
    shares = importance_shares(study)
    if shares:
        figures["importance"] = study_plots.draw_importance(shares, metrics[0])
    log = [key for key, distribution in space.items() if getattr(distribution, "log", False)]
    figures["slices"] = study_plots.draw_slices(rows, metrics[0], list(space), log)
    return figures


def importance_shares(study: optuna.Study) -> dict[str, float]:
    """Return the share of each setting in the variance of the first objective; may be empty.

    Complete trials only: of fewer than LEAST_COMPLETE it would be an importance of chance.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < LEAST_COMPLETE or len({trial.values[0] for trial in complete}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    with warnings.catch_warnings():
        # A setting that had one value only is left out.
        warnings.simplefilter("ignore")
        try:
            found = optuna.importance.get_param_importances(
                study, evaluator=evaluator, target=lambda trial: trial.values[0]
            )
        # What Optuna says of too few or equal trials.
        except (ValueError, RuntimeError):
            return {}
    return {name: share for name, share in found.items() if share == share}


def _certified_html(out: Place, search: str) -> str:
    """Return the search, and before it the certificates of the winner and its rival, if any."""
    folders = [out / name for name in ("best", "paper")]
    done = [f for f in folders if (f / "certificates").is_file("certificates.parquet")]
    if not done:
        return search
    found = load_results([folder / "certificates" for folder in done])
    results, notes = found.results, compare.differences(found.results)
    checks = ["not yet: rsray verify CERT"] * len(results)
    more = search + provenance_html(results, found.places, checks)
    return page.sections(results, notes=notes, more=more)


def _trials_html(rows: Rows) -> str:
    """Return the table of all trials, settings first, without columns that say nothing."""
    settings = [name for name in rows[0] if name not in SCHEMA.names]
    front = sum(row["pareto"] for row in rows)
    silent = {"pareto": front <= 1, "error": all(row["error"] is None for row in rows)}
    rest = [name for name in SCHEMA.names if not silent.get(name, name == "number")]
    header = ["number", *settings, *rest]
    texts = ([_shown_cell(name, row[name]) for name in header] for row in rows)
    return page.table_html([name.replace("_", " ") for name in header], texts)


def _shown_cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name == "state":
        return ENDS[value]
    if name in TUNE_OBJECTIVES.values():
        return f"{value:.4f}"
    return show_setting(value)
