"""`rsray tune`: the search that users come for."""

from __future__ import annotations

from typing import Annotated

import typer

from rsray_cli import options


def tune(
    dataset: options.Dataset = None,
    data_root: options.DataRoot = None,
    preset: Annotated[
        str | None,
        typer.Option(help="Start from a paper's settings: see rsray presets.", show_default=False),
    ] = None,
    model: options.Model = None,
    objective: Annotated[
        str | None, typer.Option(help="Training method. (default: macer)", show_default=False)
    ] = None,
    sigma: Annotated[
        list[str] | None,
        typer.Option(
            help="Noise standard deviation, in pixels of [0, 1]; several (0.25,0.5) make one search each, in OUT/sigma-0.25 ...",
            show_default=False,
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            help="Settings to try; the first is the paper's, where there is one. (default: 20; digits 5; a grid's all)",
            show_default=False,
        ),
    ] = None,
    concurrent: Annotated[
        int | None,
        typer.Option(
            help="Trials at a time. (default: as many as there is room for; with tpe at most a quarter)",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Ray Train workers of a trial and of the winner. (default: 1; imagenet on GPUs up to 4)",
            show_default=False,
        ),
    ] = None,
    gpus_per_worker: options.GpusPerWorker = None,
    epochs: Annotated[
        int | None,
        typer.Option(help="Epochs of the winner, and of a full trial.", show_default=False),
    ] = None,
    trial_epochs: Annotated[
        int | None,
        typer.Option(
            help="Epochs of a full trial, if fewer; learning-rate drops move in proportion. (default: --epochs; imagenet a quarter)",
            show_default=False,
        ),
    ] = None,
    report_every: Annotated[
        int | None,
        typer.Option(
            help="Epochs between looks at a trial, when it may be stopped. (default: an eighth of a trial)",
            show_default=False,
        ),
    ] = None,
    batch_size: options.BatchSize = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=SPEC",
            help="What to vary: 'trade_off=log(1,32)', 'lr=log(1e-3,1e-1)', 'num_draws=choice(4,8,16)', 'hinge=uniform(4,12)'. [default for macer: trade_off, hinge, inverse_temperature]",
            show_default=False,
        ),
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=V1,V2,...",
            help="Instead of a search, every combination of these values, as the papers' tables: 'trade_off=1,4,16'.",
            show_default=False,
        ),
    ] = None,
    sampler: Annotated[
        str, typer.Option(help="Who proposes: tpe (Optuna's), or random for comparison.")
    ] = "tpe",
    objectives: Annotated[
        str,
        typer.Option(
            help="acr, clean_accuracy or both (acr,clean_accuracy: a Pareto front, no trial stops early); the first decides who wins."
        ),
    ] = "acr",
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Fix any training or objective setting; it is then not searched.",
            show_default=False,
        ),
    ] = None,
    limit: options.TrainLimit = None,
    validation: Annotated[
        float | None,
        typer.Option(
            help="Fraction of the training images that trials are judged on. (default: 0.15, at most 2000 images)",
            show_default=False,
        ),
    ] = None,
    final: Annotated[
        bool, typer.Option("--final/--no-final", help="Train and certify the winner.")
    ] = True,
    compare: Annotated[
        bool | None,
        typer.Option(
            "--compare/--no-compare",
            help="Train and certify the published setting too (where there is none, the one searched from), on the same images. (default: yes; digits no)",
            show_default=False,
        ),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option(
            help="Draws per test image of the winner's certificates. (default: 100000; digits 10000)",
            show_default=False,
        ),
    ] = None,
    skip: Annotated[
        int | None,
        typer.Option(
            help="Certify every K-th test image. (default: 20 on mnist, svhn and cifar10; imagenet 100; else 1)",
            show_default=False,
        ),
    ] = None,
    certify_limit: Annotated[
        int | None, typer.Option(help="Certify at most this many test images.", show_default=False)
    ] = None,
    precision: options.Precision = None,
    image_size: options.ImageSize = None,
    download: options.Download = False,
    seed: options.Seed = 0,
    address: options.Address = None,
    cluster: options.Cluster = None,
    down: options.Down = False,
    out: options.Out = None,
) -> None:
    """Search for the settings with the largest certified radius, then train and certify the winner.

    Trials are judged by projected ACR on held-out training images (an estimate from 256 draws per
    image); poor ones stop early (ASHA), Optuna's TPE proposes the next. The winner is trained on
    all training images and certified on the test set, beside the published setting. Run again
    with the same --out, a stopped search continues.

    Example: rsray tune --dataset digits
    """
    if cluster is not None:
        from rsray_cli.cluster import run_there

        run_there(cluster, down=down, address=address, out=out, model=model)
        return
    from rsray.config import parse_assignments
    from rsray.errors import UserError
    from rsray.presets import search_config
    from rsray.storage import Place

    if dataset is None and preset is None:
        raise UserError("give --dataset or --preset")
    if search and grid:
        raise UserError("give --search or --grid, not both")
    flat = options.given(
        dataset=dataset,
        data_root=data_root,
        model=model,
        objective=objective,
        epochs=epochs,
        batch_size=batch_size,
        gpus_per_worker=gpus_per_worker,
        precision=precision,
        limit=limit,
        image_size=image_size,
        seed=seed,
    )
    flat |= parse_assignments(set_ or [])
    if "validation" in flat:
        raise UserError("--set validation: give --validation; the winner is trained on all images")
    sigmas = _sigmas(sigma or [])
    bases = [
        search_config(flat | options.given(sigma=value), preset_name=preset)
        for value in sigmas or [None]
    ]
    images, test_images = _open_data(bases[0], download)
    chosen = options.given(
        trials=trials,
        workers=workers,
        trial_epochs=trial_epochs,
        report_every=report_every,
        validation=validation,
        compare=compare,
        n=n,
        skip=skip,
    ) | {
        "sampler": sampler,
        "objectives": objectives.split(","),
        "concurrent": concurrent,
        "final": final,
        "seed": seed,
        "limit": certify_limit,
    }
    if grid:
        chosen |= {"sampler": "grid"}
    spaces = [_space(base.objective, search or [], grid or [], flat) for base in bases]
    configs = [
        _configure(base, images, space, chosen) for base, space in zip(bases, spaces, strict=True)
    ]
    where = Place.of(out or options.new_folder("tune", bases[0].dataset, bases[0].objective))
    several = [where / f"sigma-{config.train.sigma:g}" for config in configs]
    _tune(configs, several if len(configs) > 1 else [where], address, test_images)


def _sigmas(texts: list[str]) -> list[float]:
    """Return the values in texts such as "0.25,0.5"; UserError for one that is no number."""
    from rsray.errors import UserError

    parts = [part for text in texts for part in text.split(",")]
    try:
        values = [float(part) for part in parts]
    except ValueError as problem:
        raise UserError(
            f"sigma {','.join(parts)!r} is no number, nor a list such as 0.25,0.5"
        ) from problem
    if len({f"{value:g}" for value in values}) < len(values):
        raise UserError(f"sigma {','.join(parts)!r} names a value twice")
    return values


def _open_data(base, download) -> tuple[int, int]:  # type: ignore[no-untyped-def]
    """Return how many images there are to train on, and to test.

    A missing data set is an error now, not after hours.
    """
    from rsray.data import open_split

    splits = {
        name: open_split(
            base.dataset, name, base.data_root, image_size=base.image_size, download=download
        )
        for name in ("train", "test")
    }
    return min(len(splits["train"]), base.limit or len(splits["train"])), len(splits["test"])


def _space(objective, search, grid, fixed) -> dict[str, str]:  # type: ignore[no-untyped-def]
    """Return the SPEC of each key that varies; what the user gave a value does not."""
    from rsray.distributed.search.space import parse_grid, parse_space

    return parse_grid(grid, objective, fixed) if grid else parse_space(search, objective, fixed)


def _configure(base, images, space, chosen):  # type: ignore[no-untyped-def]
    """Return the search that the options describe; the data set decides what they leave open."""
    from rsray.config import TuneConfig
    from rsray.distributed.search.defaults import search_defaults
    from rsray.distributed.search.space import distributions, grid_points

    defaults = search_defaults(base, images, chosen.get("trial_epochs"), space)
    if chosen["sampler"] == "grid":
        defaults["trials"] = len(grid_points(distributions(space)))
    return TuneConfig.make({"train": base, "search": space, **defaults, **chosen})


def _tune(configs, places, address, test_images):  # type: ignore[no-untyped-def]
    import time

    from rsray.distributed.search.tuner import claim_tune
    from rsray.distributed.search.tuner import tune as tune_on_ray
    from rsray.errors import UserError
    from rsray_cli.screen.live import bars, duration, say
    from rsray_cli.screen.tune import Screen, show_plan, show_results

    started, problems, num_failed = time.perf_counter(), [], 0
    for config, where in zip(configs, places, strict=True):  # all of them are refused, or none
        claim_tune(where, config)
    for config, where in zip(configs, places, strict=True):
        show_plan(where, config, test_images)
        try:
            with bars() as shown:
                finals = tune_on_ray(config, where, address=address, watch=Screen(shown).watch())
        except UserError as problem:
            if len(configs) == 1:
                raise
            problems.append(f"sigma {config.train.sigma:g}: {problem}")
            say(f"{problems[-1]}; on to the next")
            continue
        num_failed += show_results(where, config, finals)
    say(f"done in {duration(time.perf_counter() - started)}")
    if problems:
        raise UserError("; ".join(problems))
    if num_failed:
        raise typer.Exit(1)
