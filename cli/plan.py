"""`rsray plan`: what a certification will cost, before it is started."""

from __future__ import annotations

from typing import Annotated

import typer

from rsray_cli import options


def plan(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RUN|CHECKPOINT", help="What would be certified.", show_default=False
        ),
    ],
    dataset: options.Dataset = None,
    data_root: options.DataRoot = None,
    split: options.Split = "test",
    model: options.Model = None,
    sigma: options.Sigma = None,
    n0: options.N0 = 100,
    n: options.N = 100_000,
    alpha: options.Alpha = 0.001,
    bound: Annotated[
        str, typer.Option(help="Confidence bound, as for certify.")
    ] = "clopper-pearson",
    sampling: Annotated[str, typer.Option(help="fixed, skip or adaptive.")] = "fixed",
    tolerance: options.Tolerance = 0.01,
    at_radius: options.AtRadius = None,
    start: options.Start = 0,
    skip: options.Skip = None,
    limit: options.Limit = None,
    actors: Annotated[
        int, typer.Option(help="Size of the fleet, in actors like the one measured here.")
    ] = 1,
    gpus_per_actor: options.GpusPerActor = None,
    price: Annotated[
        float | None,
        typer.Option(help="Dollars per actor and hour, such as a GPU's.", show_default=False),
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long to measure.")] = 10.0,
    precision: options.Precision = None,
    compile: options.Compile = "auto",
    image_size: options.ImageSize = None,
    download: options.Download = False,
    seed: options.Seed = 0,
) -> None:
    """Say how many draws, hours and dollars a certification will take, from a short calibration.

    One actor's speed is measured here, with one CPU core or one GPU (of which it is taken to have
    its --gpus-per-actor). With --sampling skip or adaptive the draws of a few images are decided as
    the run would, and the mean is taken; with --at-radius their number is an estimate from the
    selection draws.

    Example: rsray plan runs/my-run --sampling skip --actors 64 --price 2.5
    """
    from rsray.errors import UserError
    from rsray_cli.request import certification

    if actors < 1 or not seconds > 0 or (price is not None and price < 0):
        raise UserError(
            f"actors must be at least 1, seconds positive and price not negative, got actors "
            f"{actors}, seconds {seconds:g}, price {price}"
        )
    request = certification(
        source,
        split=split,
        download=download,
        known={
            "model": model,
            "dataset": dataset,
            "data_root": data_root,
            "image_size": image_size,
            "sigma": sigma,
        },
        n0=n0,
        n=n,
        alpha=alpha,
        bound=bound,
        sampling=sampling,
        tolerance=tolerance,
        at_radius=at_radius,
        start=start,
        skip=skip,
        limit=limit,
        seed=seed,
        actors=None,
        gpus_per_actor=gpus_per_actor,
        precision=precision,
        compile=compile,
    )
    _print(request, actors, price, seconds)


def _print(request, actors, price, seconds):  # type: ignore[no-untyped-def]
    from dataclasses import replace

    import torch

    from rsray.certification.engine.compiled import nominal_speed
    from rsray.certification.engine.evaluation import choose_evaluation
    from rsray.certification.forecast import forecast
    from rsray.certification.sampling_plan import SamplingPlan
    from rsray.core.hardware import (
        dedicate_process,
        default_device,
        device_name,
        resolve_precision,
    )
    from rsray.errors import UserError
    from rsray_cli.screen.live import duration

    config, source, split, selected = request
    device = torch.device("cpu") if config.gpus_per_actor == 0 else default_device()
    gpus = 1.0 if config.gpus_per_actor is None or device.type == "cpu" else config.gpus_per_actor
    if config.gpus_per_actor and device.type == "cpu":
        raise UserError(
            f"gpus-per-actor is {config.gpus_per_actor:g}, but no GPU is here to be measured"
        )
    dedicate_process(1, config.gpus_per_actor or 0.0)
    precision = resolve_precision(config.precision, device)
    model = source.build(split).to(device)
    nominal = nominal_speed(model, split.image_shape, precision, device.type)
    evaluation = choose_evaluation(
        model,
        split.image_shape,
        precision=precision,
        device=device,
        compile=config.compile,
        work_seconds=len(selected.indices) * config.n / (nominal * actors * gpus),
    )
    sampling_plan = SamplingPlan.of(config)
    found = forecast(model, split, selected, config, sampling_plan, evaluation, seconds=seconds)
    found = replace(found, draws_per_second=found.draws_per_second * min(gpus, 1.0))
    kind = "GPU" if device.type == "cuda" else "core"
    how = "compiled, " if evaluation.compiled else ""
    each = f"{found.draws_per_image:,.0f}"
    if not sampling_plan.is_same_for_all:
        each += f" ± {found.draws_per_image_error:,.0f} ({found.sampled_images} images looked at)"
    if config.at_radius:
        each += ", an estimate: draws stop once the radii are decided"
    print(f"images          {found.images:,} of {config.dataset}, {config.sampling} sampling")
    print(f"draws per image {each}")
    print(f"draws           {found.draws:,.0f}")
    print(
        f"one actor       {found.draws_per_second:,.0f} draws/s on {f'{gpus:g}' if gpus != 1 else 'one'} {kind} ({device_name(device)}, {how}{precision})"
    )
    print(f"{kind}-hours{' ' * (10 - len(kind))}{found.actor_hours() * gpus:,.2f}")
    print(f"{actors} actor{'s' * (actors > 1)}, wall   {duration(found.hours(actors) * 3600)}")
    if price is not None:
        print(f"cost            ${found.dollars(actors, price):,.2f} at ${price:g} per actor-hour")
