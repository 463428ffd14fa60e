"""Certificates checked against the counts that they rest on: no model, no sampling.

Everything in CERT that follows from the counts is computed again and compared with what its files
say. Clopper-Pearson bounds come from statsmodels, which shares no code with rsray's; the other
bounds come from their own code once more.
"""

# Shapes: N images.
from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsray.certification.checks.differences import Difference, column_differences, value_differences
from rsray.certification.counts.certificate_columns import certificate_columns
from rsray.certification.counts.check import CheckedCounts
from rsray.certification.counts.gathering import GatheredCounts
from rsray.certification.counts.store import Selected
from rsray.certification.folder import (
    AT_RADIUS,
    SUMMARY,
    TABLE,
    Claimed,
    conclusion,
    finished_record,
    reopen,
    reuse_figures,
    table_metadata,
)
from rsray.certification.recertify import DRAWN, FROM, undrawn
from rsray.certification.sampling_plan import SamplingPlan
from rsray.config import CertifyConfig
from rsray.core.evidence import ABSTAIN, Evidence
from rsray.core.radius import round_down
from rsray.data.splits import selected as selected_indices
from rsray.errors import UserError
from rsray.results.certificates import Certificates, read_rows
from rsray.results.reading.cohen import is_log, read_log
from rsray.storage import Place
from rsray.storage.records import from_json

Columns = dict[str, NDArray[Any]]
INDEPENDENT = "clopper-pearson"
LOG_DECIMALS = 3


@dataclass(frozen=True)
class Verification:
    """What became of computing a CERT again."""

    path: str
    num_certificates: int
    num_blocks: int
    bound: str
    differences: tuple[Difference, ...]

    @property
    def is_equal(self) -> bool:
        """Whether all that follows from the counts is as it is stored."""
        return not self.differences

    def __str__(self) -> str:
        """Return the outcome in a line, with what computed the bounds."""
        found = f"{len(self.differences):,} DIFFERENCES" if self.differences else "equal"
        by = "statsmodels" if self.bound == INDEPENDENT else "rsray's own code"
        return (
            f"{self.path}: {found}; {self.num_certificates:,} certificates computed again from "
            f"{self.num_blocks:,} blocks of counts, {self.bound} by {by}"
        )


def verify(cert: Place) -> Verification:
    """Return in what the files of a finished CERT differ from what its counts say.

    UserError where there is no such CERT, or it has no counts.
    """
    record = finished_record(cert)
    if not cert.exists("counts"):
        raise UserError(f"{cert} has no counts: its certificates cannot be computed again")
    claimed, stored = reopen(cert, record), read_rows(cert / TABLE)
    found = Verification(str(cert), len(stored), 0, claimed.plan.bound.name, (*_rows(stored),))
    if not found.is_equal:
        return found
    selected = _selected(stored)
    counts = CheckedCounts(claimed.store, selected, claimed.plan)
    failed_N = np.isin(selected.indices, list(stored.failed))
    columns = _columns(claimed, record, selected, counts.gathered.evidence())
    columns = {name: values[~failed_N] for name, values in columns.items()}
    differences = (
        *_images(claimed.config, selected),
        *counts.differences,
        *counts.copies(_wanted(claimed, record, counts), failed_N),
        *column_differences(TABLE, stored.index, stored.columns(), columns),
        *_figures(claimed, record, stored, columns, counts.gathered),
        *_logs(claimed, stored, columns),
    )
    return replace(found, num_blocks=int(counts.copies_NB.sum()), differences=differences)


def _rows(stored: Certificates) -> Iterator[Difference]:
    """Yield a difference where the rows are not one for each image, or there is none."""
    if not len(stored):
        yield Difference(TABLE, "index", "empty", "that of the selected images")
    for index in stored.index[1:][np.diff(stored.index) <= 0][:1].tolist():
        yield Difference(TABLE, "index", f"{index} after one not below", "ascending")
    for index in np.intersect1d(stored.index, list(stored.failed))[:1].tolist():
        yield Difference(TABLE, f"image {index}", "certified", "failed")


def _selected(stored: Certificates) -> Selected:
    """Return the images that the run was to certify.

    The label of an image that failed is -1 where it is not known.
    """
    failed = stored.failed_labels
    index_N = np.concatenate([stored.index, np.array(list(stored.failed), dtype=np.int64)])
    labels_N = [*stored.label.tolist(), *(failed.get(index, -1) for index in stored.failed)]
    order = np.argsort(index_N)
    return Selected(index_N[order], np.array(labels_N, dtype=np.int64)[order])


def _wanted(
    claimed: Claimed, record: Mapping[str, Any], counts: CheckedCounts
) -> NDArray[np.int64]:
    """Return how many estimation blocks each image [N] is owed.

    Of a CERT made from another's counts: as many as the settings asked for by which they were
    drawn; those beyond its own n do not count.
    """
    drawn = record.get(DRAWN, record.get(FROM))
    if drawn is not None:
        settings = {name: drawn[name] for name in ("alpha", "bound", "n")}
        config = CertifyConfig.make({**claimed.config.model_dump(), **settings})
        plan = SamplingPlan.of(config)
        counts = CheckedCounts(claimed.store, counts.selected, plan)
    return counts.gathered.stored_draws().wanted_N


def _columns(
    claimed: Claimed, record: Mapping[str, Any], selected: Selected, evidence: Evidence
) -> Columns:
    """Return the columns that the certificates should have."""
    columns: Columns = dict(certificate_columns(selected, evidence, claimed.plan))
    if claimed.plan.bound.name == INDEPENDENT:
        columns |= _by_statsmodels(claimed, selected, evidence)
    if FROM in record:
        columns["skipped"] = undrawn(columns["n"], claimed.config)
    return columns


def _by_statsmodels(claimed: Claimed, selected: Selected, evidence: Evidence) -> Columns:
    """Return what follows from Clopper-Pearson's bound, computed by statsmodels and scipy.stats.

    Where the noise's distribution is not exactly the normal one, the total variation between the
    two is taken off.
    """
    from scipy.stats import norm
    from statsmodels.stats.proportion import proportion_confint

    total_variation = table_metadata(claimed).get("noise_total_variation") or 0.0
    config, drawn_N = claimed.config, evidence.n > 0
    lower_N = np.zeros(len(drawn_N))
    lower_N[drawn_N] = proportion_confint(
        evidence.hits[drawn_N], evidence.n[drawn_N], alpha=2 * config.alpha, method="beta"
    )[0]
    lower_N = np.maximum(lower_N - total_variation, 0.0)
    is_certified_N = lower_N > 0.5
    prediction_N = np.where(is_certified_N, evidence.selected_class, ABSTAIN)
    return {
        "prediction": prediction_N.astype(np.int32),
        "radius": np.where(is_certified_N, config.sigma * norm.ppf(lower_N), 0.0),
        "correct": prediction_N == selected.labels,
        "p_a_lower": lower_N,
        "p_b_upper": 1.0 - lower_N,
    }


def _images(config: CertifyConfig, selected: Selected) -> Iterator[Difference]:
    """Yield a difference unless the settings select these images from a set of some size.

    The size is not recorded: that images are missing at the end only an audit sees.
    """
    index_N, last = selected.indices, int(selected.indices[-1])
    gap = int(np.diff(index_N).max(initial=config.skip))
    for size in range(max(last, config.start) + 1, last + 2 + 2 * gap):
        asked_N = selected_indices(
            size, config.start, config.skip, config.limit, is_spread=config.is_spread
        )
        if np.array_equal(asked_N, index_N):
            return
    asked = f"as start {config.start}, skip {config.skip} and limit {config.limit} say"
    yield Difference(TABLE, "index", f"{len(index_N)} images", asked)


def _figures(
    claimed: Claimed,
    record: Mapping[str, Any],
    stored: Certificates,
    columns: Columns,
    gathered: GatheredCounts,
) -> Iterator[Difference]:
    """Yield what differs in the metadata, the summary and the answers of at-radius."""
    is_made_again = FROM in record
    more = {FROM: record[FROM]} if is_made_again else reuse_figures(gathered, columns)
    summary = _read_json(claimed.folder, SUMMARY)
    expected = conclusion(
        claimed,
        columns,
        # It follows from nothing
        seconds=_measured(summary.get("seconds")),
        failed=stored.failed,
        failed_labels=stored.failed_labels,
        **more,
    )
    for file, mine, right, what in (
        (TABLE, stored.metadata, expected.metadata, "metadata"),
        (SUMMARY, summary, expected.summary, ""),
    ):
        known = {k: v for k, v in right.items() if k in mine or k not in _unrecorded(record)}
        yield from value_differences(file, mine, known, what)
    if expected.at_radius is not None:
        answers = _read_json(claimed.folder, AT_RADIUS)
        yield from value_differences(AT_RADIUS, answers, expected.at_radius)


def _measured(seconds: Any) -> float | None:
    """Return a duration that a summary tells; None for what is none."""
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    return float(seconds) if is_number and seconds >= 0 else None


def _unrecorded(record: Mapping[str, Any]) -> set[str]:
    """Return the metadata that a version which did not know a setting yet could not write."""
    settings = set(CertifyConfig.model_fields) - set(record)
    return settings | ({"noise_total_variation"} if "noise" in settings else set())


def _read_json(cert: Place, name: str) -> dict[str, Any]:
    """Return what a file of JSON holds; nothing where it is missing or holds something else."""
    try:
        found = from_json(cert.read(name), name)
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _logs(claimed: Claimed, stored: Certificates, columns: Columns) -> Iterator[Difference]:
    """Yield what differs in logs that were exported into CERT."""
    num_failed = len(stored.failed)
    index_N = np.concatenate([stored.index, np.array(list(stored.failed), dtype=np.int64)])
    order = np.argsort(index_N)
    # Of an image that failed a log says that it abstains; its label is not compared.
    padded: Columns = {
        "prediction": np.pad(columns["prediction"], (0, num_failed), constant_values=ABSTAIN),
        "radius": np.pad(round_down(columns["radius"], LOG_DECIMALS), (0, num_failed)),
        "correct": np.pad(columns["correct"], (0, num_failed)),
    }
    expected = {name: values[order] for name, values in padded.items()}
    for name in claimed.folder.names(".tsv"):
        if not is_log(claimed.folder / name):
            continue
        log = read_log(claimed.folder / name)
        if np.array_equal(log.index, index_N[order]):
            yield from column_differences(name, log.index, log.columns(), expected)
        else:
            yield Difference(name, "index", f"{len(log)} images", f"those of {TABLE}")
