"""`rsray certify`: certified radii of a test set."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING, Any

import typer

from rsray.config import CertifyConfig, Running
from rsray.progress import duration
from rsray.screen import say
from rsray_cli.options import AFTER_DRY_RUN, NORMALISE, command, options_of, told
from rsray_cli.results import name_failures, print_results

if TYPE_CHECKING:
    from rsray.outcomes import Certification


@command(
    options_of(CertifyConfig, rename=NORMALISE),
    options_of(Running, without=("set",)),
)
def certify(source: str, **given: Any) -> None:
    """Certify a test set by hard randomized smoothing (Cohen et al. 2019, CERTIFY).

    Each certificate holds with probability at least 1 - alpha: the smoothed classifier predicts its
    class everywhere within the l2 radius. Writes CERT: certify.yaml, counts/, certificates.parquet
    and summary.json. Draws that CERT already holds are not made again.

    Example: rsray certify runs/digits --n 1000 --out runs/digits-cert
    """
    from rsray import api

    cert = api.certify(source, **{**given, **told(given)})
    if "dry_run" in given:
        say(AFTER_DRY_RUN)
        return
    print_results(cert)
    _say_what_was_made(cert)
    if name_failures(cert.summary["failed"]):
        raise typer.Exit(1)


def _say_what_was_made(cert: Certification) -> None:
    summary = cert.summary
    speed = summary["draws_per_second"] or 0.0
    say(f"{summary['draws']:,} draws in {duration(summary['seconds'])}, {speed:,.0f} draws/s")
    for radius, accuracy in summary.get("at_radius", {}).items():
        say(f"certified accuracy at radius {radius}: {accuracy:.2%}")
    if "at_radius" in summary:
        say(
            f"{summary['undecided']} images undecided at n, counted as not certified; no ACR: "
            "draws stop once these radii are decided"
        )
    say(f"next: rsray report {quote(cert.path)} --plot curve.png")
