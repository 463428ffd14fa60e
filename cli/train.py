"""`rsray train` and `export`: one training run, and its network for others."""

from __future__ import annotations

from shlex import quote
from typing import Any

from rsray.config import CertifyConfig, ExportConfig, Running, TrainConfig
from rsray.given_values import parse_assignments
from rsray.screen import say, show
from rsray_cli.options import AFTER_DRY_RUN, command, options_of, told


@command(options_of(TrainConfig), options_of(Running))
def train(**given: Any) -> None:
    """Train a classifier whose smoothed version is certifiably robust.

    Writes RUN: run.yaml, metrics.jsonl, TensorBoard events (on a disk), a checkpoint after every
    epoch, and model.safetensors at the end. Run again with the same --out, a stopped run continues.

    Example: rsray train --dataset digits --objective macer --epochs 8 --out runs/digits
    """
    from rsray import api

    settings = parse_assignments(given.pop("set", []))
    run = api.train(**{**given, **settings, **told(given)})
    if "dry_run" in given:
        say(AFTER_DRY_RUN)
        return
    show(run.path)
    behind = "RUN --denoiser " if run.is_denoiser else ""
    say(f"next: rsray certify {behind}{quote(run.path)}")


@command(
    options_of(ExportConfig),
    options_of(CertifyConfig, "model"),
)
def export(run: str, **given: Any) -> None:
    """Write the network of RUN as a folder that others load, in Hugging Face's layout.

    It holds model.safetensors, config.json and a model card, with the figures of --cert; a factory
    of your own has to be named by --model for --onnx. The folder is a RUN itself, and can be
    uploaded as it is.

    Example: rsray export runs/digits --cert runs/digits-cert --out digits-smoothed
    """
    from rsray import api

    made = api.export(run, **given)
    show(made.path)
    say(f"next: rsray certify {quote(made.path)}")
