"""Logs that were exported into a CERT against its certificates."""

# Shapes: N images.
from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rsray.certification.checks.by_statsmodels import Columns
from rsray.certification.checks.differences import Difference, column_differences
from rsray.core.evidence import ABSTAIN
from rsray.core.radius import round_down
from rsray.errors import UserError
from rsray.results.certificates import Certificates
from rsray.results.reading.cohen import DECIMALS, is_log, read_log
from rsray.storage import Place


def log_differences(cert: Place, stored: Certificates, columns: Columns) -> Iterator[Difference]:
    """Yield what differs in the logs of a CERT from the columns that certificates should have."""
    labels, num_failed = stored.failed_labels, len(stored.failed)
    index_N = np.concatenate([stored.index, np.array(list(stored.failed), dtype=np.int64)])
    order = np.argsort(index_N)
    # Of an image that failed a log says that it abstains.
    failed_N = np.array([labels.get(index, -1) for index in stored.failed], dtype=np.int64)
    padded: Columns = {
        "label": np.concatenate([stored.label, failed_N]),
        "prediction": np.pad(columns["prediction"], (0, num_failed), constant_values=ABSTAIN),
        "radius": np.pad(columns["radius"], (0, num_failed)),
        "correct": np.pad(columns["correct"], (0, num_failed)),
    }
    expected = {name: values[order] for name, values in padded.items()}
    for name in (*cert.names(".tsv"), *cert.names(".csv")):
        if not is_log(cert / name):
            continue
        try:
            log = read_log(cert / name)
        except UserError as problem:
            yield Difference(name, "it", str(problem), "a whole log")
            continue
        if np.array_equal(log.index, index_N[order]):
            decimals = DECIMALS["\t" if name.endswith(".tsv") else ","]
            printed = {**expected, "radius": round_down(expected["radius"], decimals)}
            yield from column_differences(name, log.index, log.columns(), printed)
        else:
            yield Difference(name, "index", f"{len(log)} images", "those of the certificates")
