"""`rsray certify`: certified radii of a test set."""

from __future__ import annotations

from typing import Annotated

import typer

from rsray_cli import options


def certify(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RUN|CHECKPOINT",
            help="A RUN folder, a .safetensors file or a published .pth.tar checkpoint.",
            show_default=False,
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
        str,
        typer.Option(
            help="clopper-pearson; tcertify: bounds the runner-up too, for more classes; hoeffding or bernstein: of the SOFT smoothed classifier."
        ),
    ] = "clopper-pearson",
    sampling: Annotated[
        str,
        typer.Option(
            help="fixed: n draws each; skip: none where the selection already misses the label (same ACR and curve, less work); adaptive: as skip, and no more draws than --tolerance asks."
        ),
    ] = "fixed",
    tolerance: options.Tolerance = 0.01,
    at_radius: options.AtRadius = None,
    start: options.Start = 0,
    skip: options.Skip = None,
    limit: options.Limit = None,
    actors: options.Actors = None,
    gpus_per_actor: options.GpusPerActor = None,
    precision: options.Precision = None,
    compile: options.Compile = "auto",
    block_size: Annotated[int, typer.Option(help="Draws per stored block of counts.")] = 1000,
    image_size: options.ImageSize = None,
    download: options.Download = False,
    seed: options.Seed = 0,
    address: options.Address = None,
    cluster: options.Cluster = None,
    down: options.Down = False,
    out: options.Out = None,
) -> None:
    """Certify a test set by hard randomized smoothing (Cohen et al. 2019, CERTIFY).

    Each certificate holds with probability at least 1 - alpha: the smoothed classifier predicts its
    class everywhere within the l2 radius. Writes CERT: certify.yaml, counts/, certificates.parquet
    and summary.json. Draws that CERT already holds are not made again.

    Example: rsray certify runs/my-run --skip 10 --out runs/my-cert
    """
    if cluster is not None:
        from rsray_cli.cluster import run_there

        run_there(cluster, down=down, address=address, out=out, inputs=(source,), model=model)
        return
    from rsray.storage import Place
    from rsray_cli.request import certification

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
        block_size=block_size,
        start=start,
        skip=skip,
        limit=limit,
        seed=seed,
        actors=actors,
        gpus_per_actor=gpus_per_actor,
        precision=precision,
        compile=compile,
    )
    where = out or options.new_folder("certify", request.config.dataset, request.config.sigma)
    _certify(request, where, Place.of(where), address)


def _certify(request, where, folder, address):  # type: ignore[no-untyped-def]
    from rsray.distributed.certify.certifier import certify as certify_on_ray
    from rsray_cli.screen.live import CertifyBar, bars, duration, say
    from rsray_cli.screen.results import name_failures, show

    config, source, images, selected = request
    say(
        f"certifying {len(selected.indices):,} images of {config.dataset}, sigma {config.sigma:g}, "
        f"n {config.n:,}, alpha {config.alpha:g} -> {where}"
    )
    with bars() as shown:
        summary = certify_on_ray(
            config, folder, source, images, selected, address=address, on_progress=CertifyBar(shown)
        )
    show(where)
    speed = summary["draws_per_second"] or 0.0
    say(f"{summary['draws']:,} draws in {duration(summary['seconds'])}, {speed:,.0f} draws/s")
    for radius, accuracy in summary.get("at_radius", {}).items():
        say(f"certified accuracy at radius {radius}: {accuracy:.2%}")
    if "at_radius" in summary:
        say(
            f"{summary['undecided']} images undecided at n, counted as not certified; no ACR: draws stop once these radii are decided"
        )
    say(f"next: rsray report {where} --plot curve.png")
    if name_failures(summary["failed"]):
        raise typer.Exit(1)
