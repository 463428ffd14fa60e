"""`rsray predict`: the smoothed classifier's class of each image, or abstention."""

from __future__ import annotations

from shlex import quote
from typing import Any

import typer

from rsray.config import CertifyConfig, PredictConfig, Running
from rsray.errors import printable
from rsray.screen import say
from rsray_cli.options import NORMALISE, command, options_of
from rsray_cli.results import name_failures

IMAGES = (
    "source", "dataset", "data_root", "split", "model", "model_args", "normalisation", "denoiser", "sigma",
    "start", "skip", "limit", "precision", "image_size", "channels", "label_column", "seed",
)  # fmt: skip


@command(
    options_of(CertifyConfig, *IMAGES, rename=NORMALISE),
    options_of(PredictConfig),
    options_of(Running, "download"),
)
def predict(source: str, **given: Any) -> None:
    """Predict by hard randomized smoothing (Cohen et al. 2019, PREDICT); abstain when in doubt.

    A class that is printed is the smoothed classifier's own with probability at least 1 - alpha.
    Prints a line per image (index, label, prediction, p-value, the names of both classes; -1 =
    abstain) and the accuracy.

    Example: rsray predict runs/digits --limit 20
    """
    from rsray import api

    made = api.predict(source, **given)
    rows = made.table.to_pylist()
    print("\t".join(made.table.column_names))
    for row in rows:
        cells = {**row, "p_value": f"{row['p_value']:.3g}"}.values()
        print("\t".join(printable(str(cell)) for cell in cells))
    right = sum(row["prediction"] == row["label"] for row in rows)
    abstained = sum(row["prediction"] < 0 for row in rows)
    settings = PredictConfig(**{k: v for k, v in given.items() if k in ("n", "alpha")})
    failed = f", {len(made.failed)} failed" if made.failed else ""
    say(
        f"{len(rows) + len(made.failed)} images: {right} right, {abstained} abstained{failed} "
        f"(n {settings.n}, alpha {settings.alpha:g}); normalisation {made.normalisation}"
    )
    if warning := made.warning:
        say(f"warning: {warning}")
    # A RUN says all of it itself.
    same = " with the same --model, --dataset, ..." if given.get("dataset") else ""
    say(f"next: rsray certify {quote(source)}{same}")
    if name_failures(made.failed, "prediction"):
        raise typer.Exit(1)
