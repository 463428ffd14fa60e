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
    sigma: options.Sigma = None,
    trials: Annotated[
        int, typer.Option(help="Settings to try; the first is the preset's own.")
    ] = 5,
    concurrent: Annotated[
        int | None,
        typer.Option(
            help="Trials at a time. (default: one per GPU, or per CPU core)", show_default=False
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(help="Epochs of a full trial, and of the winner.", show_default=False),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images per step.", show_default=False)
    ] = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=SPEC",
            help="What to vary: 'trade_off=log(1,32)', 'lr=log(1e-3,1e-1)', 'num_draws=choice(4,8,16)', 'hinge=uniform(4,12)'. [default for macer: trade_off, hinge, inverse_temperature]",
            show_default=False,
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Fix any training or objective setting.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(help="Train on this many images, drawn with the seed.", show_default=False),
    ] = None,
    validation: Annotated[
        float, typer.Option(help="Fraction of the training images that trials are judged on.")
    ] = 0.15,
    n: Annotated[
        int | None,
        typer.Option(
            help="Draws per test image of the winner's certificates. (default: 100000; digits 10000)",
            show_default=False,
        ),
    ] = None,
    skip: options.Skip = None,
    certify_limit: Annotated[
        int | None, typer.Option(help="Certify at most this many test images.", show_default=False)
    ] = None,
    precision: options.Precision = None,
    image_size: options.ImageSize = None,
    download: options.Download = False,
    seed: options.Seed = 0,
    address: options.Address = None,
    out: options.Out = None,
) -> None:
    """Search for the settings with the largest certified radius, then train and certify the winner.

    Trials are judged by projected ACR on held-out training images (an estimate from 256 draws per
    image); poor ones stop early (ASHA), Optuna's TPE proposes the next. The winner is trained on
    all training images and certified on the test set. Run again with the same --out, a stopped
    search continues.

    Example: rsray tune --dataset digits
    """
    from rsray.config import TuneConfig, parse_assignments
    from rsray.data import dataset_spec, open_split
    from rsray.errors import UserError
    from rsray.fleet.space import parse_space
    from rsray.presets import train_config

    if dataset is None and preset is None:
        raise UserError("give --dataset or --preset")
    flat = options.given(
        dataset=dataset,
        data_root=data_root,
        model=model,
        objective=objective,
        sigma=sigma,
        epochs=epochs,
        batch_size=batch_size,
        precision=precision,
        limit=limit,
        image_size=image_size,
        seed=seed,
    )
    base = train_config(flat | parse_assignments(set_ or []), preset_name=preset)
    for split in ("train", "test"):  # a missing data set is an error now, not after the search
        open_split(
            base.dataset, split, base.data_root, image_size=base.image_size, download=download
        )
    config = TuneConfig.make(
        {
            "train": base,
            "search": parse_space(search or [], base.objective),
            "trials": trials,
            "concurrent": concurrent,
            "validation": validation,
            "seed": seed,
            "n": n if n is not None else (10_000 if base.dataset == "digits" else 100_000),
            "skip": skip if skip is not None else dataset_spec(base.dataset).skip,
            "limit": certify_limit,
        }
    )
    _tune(config, out or options.new_folder("tune", base.dataset, base.objective), address)


def _tune(config, where, address):  # type: ignore[no-untyped-def]
    import time

    from rsray.fleet.tuner import tune as tune_on_ray
    from rsray.storage import Folder
    from rsray_cli.live import bars, duration, say

    started = time.perf_counter()
    base = config.train
    say(
        f"searching {', '.join(config.search)} of {base.objective} on {base.dataset}, "
        f"sigma {base.sigma:g}: {config.trials} trials of up to {base.epochs} epochs -> {where}"
    )
    with bars() as shown:
        summary = tune_on_ray(
            config, Folder.of(where), address=address, watch=_Screen(shown).watch()
        )
    _close(where, summary)
    say(f"done in {duration(time.perf_counter() - started)}")


def _close(where, summary) -> None:  # type: ignore[no-untyped-def]
    from rsray.results import compare, plot
    from rsray_cli.live import say
    from rsray_cli.results import show

    certificates = f"{where}/best/certificates"
    show(certificates)
    print(f"ACR {summary['acr']:.4f} over {summary['num_images']} test images")
    curve = f"{where}/radius-accuracy.png"
    plot.save_plot(compare.load_all([certificates]), curve)
    say(f"curve        {curve}")
    say(f"trials       {where}/trials.parquet  (optuna-dashboard {where}/study.journal shows them)")
    say(f"winner       {where}/best.yaml  (again: rsray train --config {where}/best.yaml)")
    say(f"certificates {certificates}")
    say(f"next: rsray report {where} --html report.html, or more trials in a new --out")


class _Screen:
    """One bar per phase of the search."""

    def __init__(self, shown) -> None:  # type: ignore[no-untyped-def]
        self.shown = shown
        self.bars = {}  # type: ignore[var-annotated]

    def watch(self):  # type: ignore[no-untyped-def]
        from rsray.fleet.watch import Watch

        return Watch(
            trial=self.trial, phase=self.phase, training=self.training, certifying=self.certifying
        )

    def phase(self, name: str) -> None:
        from rsray_cli.live import CertifyBar, TrainingBar, say

        if name == "search":
            self.bars[name] = self.shown.add_task("search", figures="starting", total=None)
        else:
            self.bars[name] = TrainingBar(self.shown) if name == "train" else CertifyBar(self.shown)
        if self.shown.disable:
            say(f"phase: {name}")

    def training(self, progress) -> None:  # type: ignore[no-untyped-def]
        self.bars["train"](progress)

    def certifying(self, snapshot) -> None:  # type: ignore[no-untyped-def]
        self.bars["certify"](snapshot)

    def trial(self, event) -> None:  # type: ignore[no-untyped-def]
        from rsray_cli.live import say

        setting = ", ".join(
            f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in event.params.items()
        )
        best = f"best projected ACR {event.best:.3f}" if event.best is not None else ""
        self.shown.update(
            self.bars["search"],
            total=event.trials,
            completed=event.finished,
            figures=f"{event.finished}/{event.trials} trials  {best}",
        )
        if event.kind == "report":
            return
        result = (
            "failed"
            if event.kind == "failed"
            else f"projected ACR {event.acr:.3f} at epoch {event.epoch}"
        )
        line = f"trial {event.finished}/{event.trials}: {setting}: {result}"
        self.shown.console.print(line, highlight=False) if not self.shown.disable else say(line)
