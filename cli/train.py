"""`rsray train`: one training run."""

from __future__ import annotations

from typing import Any

from rsray.config import Running, TrainConfig
from rsray_cli.options import command, options_of, shown_fields


@command(
    options_of(TrainConfig, *shown_fields(TrainConfig)), options_of(Running, *shown_fields(Running))
)
def train(**given: Any) -> None:
    """Train a classifier whose smoothed version is certifiably robust.

    Writes RUN: run.yaml, metrics.jsonl, TensorBoard events (on a disk), a checkpoint after every
    epoch, and model.safetensors at the end. Run again with the same --out, a stopped run continues.

    Example: rsray train --dataset digits --objective macer --epochs 8 --out runs/digits
    """
    from rsray import api
    from rsray.given_values import parse_assignments
    from rsray.screen import say

    settings = parse_assignments(given.pop("set", []))
    run = api.train(**{**given, **settings})
    print(run.path)
    say(f"next: rsray certify {run.path}")
