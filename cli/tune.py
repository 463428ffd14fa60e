"""`rsray tune`: the search that users come for."""

from __future__ import annotations

import time
from typing import Any

import typer

from rsray.config import Running, Searching, TrainConfig, TuneConfig
from rsray.errors import UserError
from rsray.given_values import numbers, parse_assignments
from rsray.progress import duration
from rsray.screen import say
from rsray_cli.options import AFTER_DRY_RUN, command, options_of, shown_fields, told
from rsray_cli.results import follow_up, show_results


@command(
    options_of(TrainConfig, without=("sigma", "workers")),
    options_of(Searching, "sigma"),
    options_of(TuneConfig, rename={"limit": "certify_limit"}),
    options_of(Searching, "grid"),
    options_of(Running),
)
def tune(**given: Any) -> None:
    """Search for the settings with the largest certified radius, then train and certify the winner.

    Trials are judged by projected ACR on held-out training images (an estimate from 256 draws per
    image; from 64 for digits and your own pictures); poor ones stop early (ASHA), Optuna's TPE
    proposes the next. The winner is trained on all training images and certified on the test set,
    beside the published setting. Run again with the same --out, a stopped search continues.

    Example: rsray tune --dataset digits
    """
    from rsray import api
    from rsray.outcomes import Study

    started, failed = time.perf_counter(), list[int]()

    def show(study: Study) -> None:
        failed.append(show_results(study))

    settings = read_settings(given.pop("set", []))
    sigmas = numbers(given.pop("sigma", []), "sigma")
    studies = api.tune_each(sigmas, on_study=show, **{**given, **settings, **told(given)})
    if "dry_run" in given:
        say(AFTER_DRY_RUN)
        return
    say(f"done in {duration(time.perf_counter() - started)}")
    say(follow_up(studies[0]))
    if any(failed):
        raise typer.Exit(1)


def read_settings(texts: list[str]) -> dict[str, Any]:
    """Return the settings of --set; UserError for one that is the search's own."""
    settings = parse_assignments(texts)
    options = set(shown_fields(TuneConfig)) - TrainConfig.model_fields.keys()
    for key in sorted(settings.keys() & options):
        raise UserError(f"--set {key}: give --{key.replace('_', '-')}")
    if "validation" in settings:
        raise UserError("--set validation: give --validation; the winner is trained on all images")
    return settings
