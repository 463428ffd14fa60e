"""`rsray predict`: the smoothed classifier's class of each image, or abstention."""

from __future__ import annotations

from typing import Annotated

import typer

from rsray_cli import options


def predict(
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
    split: Annotated[str, typer.Option(help="Which images: test or train.")] = "test",
    model: options.Model = None,
    sigma: options.Sigma = None,
    n: Annotated[int, typer.Option(help="Draws per image.")] = 1000,
    alpha: Annotated[
        float, typer.Option(help="Probability that a prediction is not the smoothed classifier's.")
    ] = 0.001,
    start: options.Start = 0,
    skip: options.Skip = None,
    limit: options.Limit = None,
    precision: options.Precision = None,
    image_size: options.ImageSize = None,
    download: options.Download = False,
    seed: options.Seed = 0,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.parquet", help="Write the predictions here.", show_default=False
        ),
    ] = None,
) -> None:
    """Predict by hard randomized smoothing (Cohen et al. 2019, PREDICT); abstain when in doubt.

    A class that is printed is the smoothed classifier's own with probability at least 1 - alpha.
    Prints a line per image (index, label, prediction, p-value; -1 = abstain) and the accuracy.

    Example: rsray predict runs/my-run --limit 20
    """
    from rsray.certification.predictions import predict_images, write_predictions
    from rsray.core.hardware import default_device, resolve_precision
    from rsray.data import DATASETS, selected
    from rsray.errors import UserError
    from rsray_cli.request import open_classifier
    from rsray_cli.screen.live import say
    from rsray_cli.screen.results import name_failures

    if n < 1 or not 0 < alpha < 1:
        raise UserError(
            f"n must be at least 1 and alpha between 0 and 1, got n {n} and alpha {alpha}"
        )
    found, images = open_classifier(
        source,
        split=split,
        download=download,
        model=model,
        dataset=dataset,
        data_root=data_root,
        image_size=image_size,
        sigma=sigma,
    )
    assert found.dataset is not None and found.sigma is not None
    every = skip if skip is not None else DATASETS[found.dataset].skip
    device = default_device()
    predictions, failed = predict_images(
        found,
        images,
        selected(len(images), start, every, limit),
        n=n,
        alpha=alpha,
        seed=seed,
        sigma=found.sigma,
        device=device,
        precision=resolve_precision(precision, device),
    )
    if out is not None:
        write_predictions(out, predictions)
    print("index\tlabel\tprediction\tp_value")
    for row in predictions.to_pylist():
        print(f"{row['index']}\t{row['label']}\t{row['prediction']}\t{row['p_value']:.3g}")
    right = sum(row["prediction"] == row["label"] for row in predictions.to_pylist())
    abstained = sum(row["prediction"] < 0 for row in predictions.to_pylist())
    say(f"{len(predictions)} images: {right} right, {abstained} abstained (n {n}, alpha {alpha:g})")
    if name_failures(failed, "prediction"):
        raise typer.Exit(1)
