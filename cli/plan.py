"""`rsray plan`: what a certification, a training run or a search will cost, before it is started."""

from __future__ import annotations

from collections.abc import Mapping
from shlex import quote
from typing import TYPE_CHECKING, Any

from rsray.config import CertifyConfig, PlanConfig, Running, TrainConfig, TuneConfig
from rsray.errors import UserError
from rsray.given_values import parse_assignments
from rsray.progress import duration
from rsray.screen import say, show
from rsray_cli.options import NORMALISE, command, options_of
from rsray_cli.tune import read_settings

if TYPE_CHECKING:
    from rsray.certification.cost import Plan
    from rsray.distributed.search.forecast import SearchPlan
    from rsray.training.cost import TrainingPlan

WITHOUT = ("source", "actors", "block_size", "reuse", "reuse_model")
# Options of training and searches alone, and those of all three.
OF_TRAINING = ("preset", "objective", "epochs", "batch_size", "set", "config")
OF_TUNING, OF_ALL = ("trials",), {*PlanConfig.model_fields, "gpus_per_actor", "download"}


@command(
    options_of(PlanConfig),
    options_of(CertifyConfig, without=WITHOUT, rename=NORMALISE),
    options_of(TrainConfig, "preset", "objective", "epochs", "batch_size"),
    options_of(TuneConfig, "trials"),
    options_of(Running, "set", "config", "download"),
)
def plan(**given: Any) -> None:
    """Say how many draws, hours and dollars a certification will take, from a short calibration.

    With --of train or tune: a training run (a step of it is measured), or a search with what it
    trains and certifies at its end. One actor's speed is measured here, with one CPU core or one
    GPU (of which it is taken to have its --gpus-per-actor). With --sampling skip or adaptive the
    draws of a few images are decided as the run would, and the mean is taken; with --at-radius
    their number is an estimate from the selection draws.

    Example: rsray plan runs/digits --actors 64 --price 2.5; rsray plan --of train --preset macer-digits
    """
    from rsray import api

    of = PlanConfig.make({"of": given.pop("of", "certify")}).of
    _check(given, of)
    if of == "certify":
        source = given.pop("source")
        _print(api.plan(source, **given))
        say(f"next: rsray certify {quote(source)}")
        return
    texts = given.pop("set", [])
    if of == "train":
        _print_training(api.plan_training(**{**given, **parse_assignments(texts)}))
    else:
        _print_search(api.plan_search(**{**given, **read_settings(texts)}))
    say(f"next: rsray {of} with the same settings")


def _check(given: Mapping[str, Any], of: str) -> None:
    """Raise UserError for an option that is not of what is planned."""
    if of == "certify":
        if "source" not in given:
            raise UserError("give a RUN or a checkpoint, or --of train or tune")
        others = given.keys() & {*OF_TRAINING, *OF_TUNING}
    else:
        if "source" in given:
            raise UserError(f"{given['source']} is given: --of {of} takes --dataset or --preset")
        own = {*TrainConfig.model_fields, *OF_TRAINING, *OF_ALL}
        others = given.keys() - own - (set(TuneConfig.model_fields) if of == "tune" else set())
    if others:
        raise UserError(f"--{min(others).replace('_', '-')} is no option of --of {of}")


def _print(plan: Plan) -> None:
    config, found, settings = plan.request.config, plan.forecast, plan.settings
    kind = "GPU" if plan.evaluation.device == "cuda" else "core"
    how = "compiled, " if plan.evaluation.compiled else ""
    each = f"{found.draws_per_image:,.0f}"
    if found.sampled_images > 1:
        each += f" ± {found.draws_per_image_error:,.0f} ({found.sampled_images} images looked at)"
    if config.at_radius:
        each += ", an estimate: draws stop once the radii are decided"
    one = f"{plan.gpus:g}" if plan.gpus != 1 else "one"
    show(f"images          {found.images:,} of {config.dataset}, {config.sampling} sampling")
    show(f"normalisation   {plan.request.source.normalisation}")
    show(f"draws per image {each}")
    show(f"draws           {found.draws:,.0f}")
    show(
        f"one actor       {found.draws_per_second:,.0f} draws/s on {one} {kind} "
        f"({plan.device_name}, {how}{plan.evaluation.precision})"
    )
    show(f"{kind}-hours{' ' * (10 - len(kind))}{plan.core_hours:,.2f}")
    _print_cost(settings, plan.hours, plan.dollars, "actor")


def _print_training(plan: TrainingPlan) -> None:
    config, kind = plan.request.config, "core" if plan.device.type == "cpu" else "GPU"
    show(
        f"images          {plan.request.num_trained:,} of {config.dataset}, {config.epochs} epochs"
    )
    show(
        f"steps           {plan.request.steps_per_epoch:,} an epoch, of {config.batch_size:,} images"
    )
    show(f"draws           {plan.request.noisy_images:,}, {plan.request.num_draws} of each image")
    show(
        f"one worker      {plan.draws_per_second:,.0f} noisy images/s on one {kind} "
        f"({plan.device_name}, {plan.precision})"
    )
    show(f"reading         {plan.images_per_second:,.0f} images/s have to come")
    show(f"{kind}-hours{' ' * (10 - len(kind))}{plan.worker_hours:,.2f}")
    _print_cost(plan.settings, plan.hours, plan.dollars, "worker")


def _print_search(plan: SearchPlan) -> None:
    search, trials, found = plan.search, plan.trials, plan.forecast
    show(f"searching       {', '.join(search.config.search)}")
    show(
        f"trials          {search.config.trials} of up to {search.most_epochs} epochs, "
        f"{trials.concurrent} at a time"
    )
    show(f"one trial       {duration(found.trial)} on {plan.device_name}")
    show(f"all trials      {duration(found.trials)}, if none is stopped")
    if found.finals:
        show(f"then            {duration(found.finals)} to train and certify")
    _print_cost(plan.settings, plan.hours, plan.dollars, "actor")


def _print_cost(settings: PlanConfig, hours: float, dollars: float | None, who: str) -> None:
    many = f"{settings.actors} {who}{'s' * (settings.actors > 1)}, wall"
    show(f"{many}   {duration(hours * 3600)}")
    if dollars is not None:
        show(f"cost            ${dollars:,.2f} at ${settings.price:g} per {who}-hour")
