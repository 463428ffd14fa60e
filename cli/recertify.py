"""`rsray recertify`: other certificates from stored counts."""

from __future__ import annotations

from typing import Any

from rsray.config import RecertifyConfig
from rsray_cli.options import command, options_of, shown_fields


@command(options_of(RecertifyConfig, *shown_fields(RecertifyConfig)))
def recertify(cert: str, **given: Any) -> None:
    """Certify again from the counts of CERT, with another alpha, bound or n: no model, no sampling.

    Writes a complete CERT: the counts it rests on, certificates.parquet and summary.json.

    Example: rsray recertify runs/digits-cert --alpha 0.01 --bound tcertify
    """
    from rsray import api
    from rsray.screen import say
    from rsray_cli.results import show

    made = api.recertify(cert, **given)
    show(made)
    images, draws = made.summary["num_images"], made.summary["draws"]
    say(f"{images:,} images from {draws:,} stored draws -> {made.path}")
    say(f"next: rsray report {cert} {made.path}")
