"""`rsray recertify`: other certificates from stored counts."""

from __future__ import annotations

from typing import Annotated

import typer


def recertify(
    cert: Annotated[
        str,
        typer.Argument(metavar="CERT", help="A finished CERT folder.", show_default=False),
    ],
    alpha: Annotated[
        float | None,
        typer.Option(
            help="Probability that a certificate is wrong. (default: CERT's)", show_default=False
        ),
    ] = None,
    bound: Annotated[
        str | None,
        typer.Option(
            help="clopper-pearson or tcertify; hoeffding or bernstein where CERT holds soft sums. (default: CERT's)",
            show_default=False,
        ),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option(
            help="Estimation draws per image: at most CERT's, in whole blocks. (default: CERT's)",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="Folder or URI for the new CERT. (default: CERT with the changes added)",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Certify again from the counts of CERT, with another alpha, bound or n: no model, no sampling.

    Writes a complete CERT: the counts it rests on, certificates.parquet and summary.json.

    Example: rsray recertify runs/my-cert --alpha 0.01 --bound tcertify
    """
    from rsray.certification.recertify import default_target
    from rsray.certification.recertify import recertify as write
    from rsray.errors import UserError
    from rsray.storage import Place
    from rsray_cli.screen.live import say
    from rsray_cli.screen.results import show

    if alpha is None and bound is None and n is None:
        raise UserError("nothing to change: give --alpha, --bound or --n")
    where = out or default_target(cert, alpha=alpha, bound=bound, n=n)
    summary = write(Place.of(cert), Place.of(where), alpha=alpha, bound=bound, n=n)
    show(where)
    say(f"{summary['num_images']:,} images from {summary['draws']:,} stored draws -> {where}")
    say(f"next: rsray report {cert} {where}")
