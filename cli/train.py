"""`rsray train`: one training run."""

from __future__ import annotations

from typing import Annotated

import typer

from rsray_cli import options


def train(
    dataset: options.Dataset = None,
    data_root: options.DataRoot = None,
    preset: Annotated[
        str | None, typer.Option(help="A paper's settings: see rsray presets.", show_default=False)
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Settings from a YAML file, such as best.yaml or run.yaml.",
            show_default=False,
        ),
    ] = None,
    model: options.Model = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="Training method: gaussian, macer, smoothadv, adre, adre-adv, sodm, stability, consistency, smoothmix.",
            show_default=False,
        ),
    ] = None,
    sigma: options.Sigma = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Passes over the data; learning-rate drops move in proportion.", show_default=False
        ),
    ] = None,
    batch_size: options.BatchSize = None,
    workers: Annotated[
        str | None,
        typer.Option(
            metavar="W",
            help="Ray Train workers; 2-8: as many as the cluster has room for, and go on with fewer or more.",
            show_default=False,
        ),
    ] = None,
    gpus_per_worker: options.GpusPerWorker = None,
    precision: options.Precision = None,
    limit: options.TrainLimit = None,
    image_size: options.ImageSize = None,
    download: options.Download = False,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any training or objective setting: lr, lr_drops, weight_decay, validation, trade_off, num_draws, ...",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Decides every random number. (default: 0)", show_default=False),
    ] = None,
    address: options.Address = None,
    cluster: options.Cluster = None,
    down: options.Down = False,
    out: options.Out = None,
) -> None:
    """Train a classifier whose smoothed version is certifiably robust.

    Writes RUN: run.yaml, metrics.jsonl, TensorBoard events (on a disk), a checkpoint after every
    epoch, and model.safetensors at the end. Run again with the same --out, a stopped run continues.

    Example: rsray train --dataset mnist --objective macer --sigma 0.5 --set trade_off=16
    """
    if cluster is not None:
        from rsray_cli.cluster import run_there

        run_there(cluster, down=down, address=address, out=out, inputs=(config,), model=model)
        return
    from rsray.config import parse_assignments
    from rsray.data import open_split
    from rsray.errors import UserError
    from rsray.presets import train_config
    from rsray.storage import Place
    from rsray.storage.yaml_files import from_yaml

    flat = options.given(
        dataset=dataset,
        data_root=data_root,
        model=model,
        objective=objective,
        sigma=sigma,
        epochs=epochs,
        batch_size=batch_size,
        workers=workers,
        gpus_per_worker=gpus_per_worker,
        precision=precision,
        limit=limit,
        image_size=image_size,
        seed=seed,
    )
    flat |= parse_assignments(set_ or [])
    base = None
    if config is not None:
        if preset is not None:
            raise UserError("give --config or --preset, not both")
        base = _settings(Place.of(config), from_yaml)
    if dataset is None and preset is None and config is None:
        raise UserError("give --dataset, --preset or --config")
    settings = train_config(flat, preset_name=preset, base=base)
    split = open_split(
        settings.dataset,
        "train",
        settings.data_root,
        image_size=settings.image_size,
        download=download,
    )
    where = out or options.new_folder("train", settings.dataset, settings.objective, settings.sigma)
    _train(settings, where, split, address)


def _settings(file, from_yaml):  # type: ignore[no-untyped-def]
    from rsray.config import TrainConfig
    from rsray.errors import UserError
    from rsray.storage import read_file

    if not file.is_file():
        raise UserError(f"--config {file} is no file")
    values = from_yaml(read_file(file), str(file))
    extra = {"data", "versions", "device"}  # what run.yaml records beside the settings
    TrainConfig.make({key: value for key, value in values.items() if key not in extra})
    return {key: value for key, value in values.items() if key not in extra}


def _train(settings, where, split, address):  # type: ignore[no-untyped-def]
    import time

    from rsray.distributed.train.trainer import train as train_on_ray
    from rsray.storage import Place
    from rsray_cli.screen.live import TrainingBar, bars, duration, say

    run, started = Place.of(where), time.perf_counter()
    say(
        f"{settings.objective} on {settings.dataset}: {settings.model}, sigma {settings.sigma:g}, "
        f"{settings.epochs} epochs, {min(len(split), settings.limit or len(split)):,} images -> {where}"
    )
    with bars() as shown:
        did_train = train_on_ray(
            settings, run, split, address=address, on_progress=TrainingBar(shown)
        )
    spent = duration(time.perf_counter() - started)
    say(f"trained in {spent}" if did_train else "was trained already: nothing to do")
    print(where)
    say(f"next: rsray certify {where}")
