"""`rsray plan`: what a certification will cost, before it is started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rsray.config import CertifyConfig, PlanConfig, Running
from rsray_cli.options import NORMALISE, command, options_of, shown_fields

if TYPE_CHECKING:
    from rsray.certification.cost import Plan


@command(
    options_of(
        CertifyConfig,
        *shown_fields(CertifyConfig, without=("actors", "block_size", "reuse", "reuse_model")),
        rename=NORMALISE,
    ),
    options_of(PlanConfig, *shown_fields(PlanConfig)),
    options_of(Running, "download"),
)
def plan(source: str, **given: Any) -> None:
    """Say how many draws, hours and dollars a certification will take, from a short calibration.

    One actor's speed is measured here, with one CPU core or one GPU (of which it is taken to have
    its --gpus-per-actor). With --sampling skip or adaptive the draws of a few images are decided as
    the run would, and the mean is taken; with --at-radius their number is an estimate from the
    selection draws.

    Example: rsray plan runs/digits --sampling skip --actors 64 --price 2.5 --seconds 2
    """
    from rsray import api
    from rsray.screen import say

    _print(api.plan(source, **given))
    say(f"next: rsray certify {source}")


def _print(plan: Plan) -> None:
    from rsray.progress import duration
    from rsray.screen import show

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
    show(
        f"{settings.actors} actor{'s' * (settings.actors > 1)}, wall   {duration(plan.hours * 3600)}"
    )
    if plan.dollars is not None:
        show(f"cost            ${plan.dollars:,.2f} at ${settings.price:g} per actor-hour")
