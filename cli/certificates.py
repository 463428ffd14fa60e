"""`rsray recertify`, `verify` and `audit`: what is done with certificates that are there."""

from __future__ import annotations

from shlex import quote
from typing import Any

import typer

from rsray.config import AuditConfig, CertifyConfig, RecertifyConfig, Running, VerifyConfig
from rsray.errors import printable
from rsray.screen import say
from rsray_cli.options import command, options_of
from rsray_cli.results import print_results

# Differences of a CERT that are printed.
MOST_SHOWN = 20


@command(options_of(RecertifyConfig))
def recertify(cert: str, **given: Any) -> None:
    """Certify again from the counts of CERT, with another alpha, bound or n: no model, no sampling.

    Writes a complete CERT: the counts it rests on, certificates.parquet and summary.json.

    Example: rsray recertify runs/digits-cert --alpha 0.01 --bound tcertify
    """
    from rsray import api

    made = api.recertify(cert, **given)
    print_results(made)
    images, draws = made.summary["num_images"], made.summary["draws"]
    say(f"{images:,} images from {draws:,} stored draws -> {made.path}")
    say(f"next: rsray report {quote(cert)} {quote(made.path)}")


@command(options_of(VerifyConfig))
def verify(certs: list[str]) -> None:
    """Compute certificates, summary and figures again from the counts of CERT, and compare.

    Needs no model. Clopper-Pearson bounds come from statsmodels, others from rsray's own code. The
    exit status is 0 where all is equal, and 1 where something differs (each difference is named) or
    where counts that CERT uses again cannot be compared with those of the CERT they come from.

    Example: rsray verify runs/digits-cert
    """
    from rsray import api

    found = [api.verify(cert) for cert in certs]
    for each in found:
        print(printable(str(each)))
        _print_differences(each.differences)
    if not all(each.is_equal for each in found):
        say("next: rsray certify RUN --out ANOTHER: what differs cannot be trusted")
        raise typer.Exit(1)
    if any(each.not_compared for each in found):
        say("next: the same where the CERT is whose counts are used again")
        raise typer.Exit(1)
    say(f"next: rsray audit {quote(certs[0])} RUN")


@command(
    options_of(AuditConfig, "cert"),
    options_of(CertifyConfig, "source"),
    options_of(AuditConfig, without=("cert",)),
    options_of(CertifyConfig, "model", "denoiser", "data_root", "actors", "gpus_per_actor"),
    options_of(Running, "download", "address"),
)
def audit(cert: str, source: str, **given: Any) -> None:
    """Draw some blocks of CERT again from the network that it certifies, and compare the counts.

    They must be equal on the same kind of hardware; elsewhere a test says whether both may come
    from one network. CERT is verified first, too. The exit status is 0 where it passes and 1 where
    not: what differs is named. Writes CERT/audit.json, which rsray report shows.

    Example: rsray audit runs/digits-cert runs/digits --blocks 20
    """
    from rsray import api

    found = api.audit(cert, source, **given)
    for line in found.lines():
        print(printable(line))
    _print_differences(found.differences)
    if not found.is_passed:
        named = quote(source)
        say(f"next: rsray certify {named} --out ANOTHER: these counts are not the network's")
        raise typer.Exit(1)
    say(f"next: rsray report {quote(cert)}")


def _print_differences(differences: tuple[object, ...]) -> None:
    for difference in differences[:MOST_SHOWN]:
        print(f"  {printable(str(difference))}")
    if len(differences) > MOST_SHOWN:
        print(f"  ... and {len(differences) - MOST_SHOWN:,} more")
