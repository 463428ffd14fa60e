"""`rsray recertify`, `verify` and `audit`: what is done with certificates that are there."""

from __future__ import annotations

from typing import Any

import typer

from rsray.config import RecertifyConfig, VerifyConfig
from rsray_cli.options import command, options_of, shown_fields

# Differences of a CERT that are printed.
MOST_SHOWN = 20


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


@command(options_of(VerifyConfig, *shown_fields(VerifyConfig)))
def verify(certs: list[str]) -> None:
    """Compute certificates, summary and figures again from the counts of CERT, and compare.

    Needs no model. Clopper-Pearson bounds come from statsmodels, others from rsray's own code. The
    exit status is 0 where all is equal, and 1 where something differs: each difference is named.

    Example: rsray verify runs/digits-cert
    """
    from rsray import api

    found = [api.verify(cert) for cert in certs]
    for each in found:
        print(each)
        _print_differences(each.differences)
    if not all(each.is_equal for each in found):
        raise typer.Exit(1)


def _print_differences(differences: tuple[object, ...]) -> None:
    for difference in differences[:MOST_SHOWN]:
        print(f"  {difference}")
    if len(differences) > MOST_SHOWN:
        print(f"  ... and {len(differences) - MOST_SHOWN:,} more")
