"""Logs that were exported into a CERT against its certificates."""

# Shapes: N images.
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from rsray.certification.checks.by_statsmodels import Columns
from rsray.certification.checks.differences import Difference, column_differences
from rsray.certification.counts.store import Selected
from rsray.core.evidence import ABSTAIN
from rsray.core.radius import round_down
from rsray.errors import UserError
from rsray.results.reading.cohen import DECIMALS, is_log, read_log
from rsray.storage import Place


def log_differences(
    cert: Place, selected: Selected, failed_N: NDArray[np.bool_], columns: Columns
) -> Iterator[Difference]:
    """Yield what differs in the logs of a CERT from the columns that certificates should have."""
    # Of an image that failed a log says that it abstains.
    expected: Columns = {"label": selected.labels, "prediction": np.full(len(failed_N), ABSTAIN)}
    expected |= {"radius": np.zeros(len(failed_N)), "correct": np.zeros_like(failed_N)}
    for name in ("prediction", "radius", "correct"):
        expected[name][~failed_N] = columns[name]
    for name in (*cert.names(".tsv"), *cert.names(".csv")):
        if not is_log(cert / name):
            continue
        try:
            log = read_log(cert / name)
        except UserError as problem:
            yield Difference(name, "it", str(problem), "a whole log")
            continue
        if np.array_equal(log.index, selected.indices):
            decimals = DECIMALS["\t" if name.endswith(".tsv") else ","]
            printed = {**expected, "radius": round_down(expected["radius"], decimals)}
            yield from column_differences(name, log.index, log.columns(), printed)
        else:
            yield Difference(name, "index", f"{len(log)} images", "those of the certificates")
