"""Certificates checked against the counts that they rest on: no model, no sampling.

Everything in CERT that follows from the counts is computed again and compared with what its files
say: exactly where library and system are those that made it, else to nine digits. Clopper-Pearson
bounds, of T-CERTIFY and of reused counts too, come from statsmodels besides.
"""

# Shapes: N images.
from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsray.certification.checks.by_statsmodels import Columns, columns_by_statsmodels
from rsray.certification.checks.differences import Difference, column_differences, value_differences
from rsray.certification.checks.logs import log_differences
from rsray.certification.counts.certificate_columns import certificate_columns
from rsray.certification.counts.check import CheckedCounts
from rsray.certification.counts.gathering import GatheredCounts
from rsray.certification.counts.store import Selected
from rsray.certification.folder import (
    AT_RADIUS,
    CERT_FILE,
    COUNTS_DIGEST,
    DECIDED_BY,
    SUMMARY,
    TABLE,
    Claimed,
    conclusion,
    finished_record,
    reopen,
    reuse_figures,
)
from rsray.certification.recertify import DRAWN, FROM, undrawn
from rsray.certification.sampling_plan import SamplingPlan
from rsray.config import CertifyConfig
from rsray.data.splits import may_be_selected
from rsray.errors import UserError
from rsray.results.certificates import Certificates, read_rows
from rsray.storage import Place
from rsray.storage.records import from_json
from rsray.versions import arithmetic


@dataclass(frozen=True)
class Verification:
    """What became of computing a CERT again."""

    path: str
    num_certificates: int
    num_blocks: int
    bound: str
    differences: tuple[Difference, ...]
    is_independent: bool = False
    # Why the counts that are used again were not compared with those of the CERT they come from.
    not_compared: str = ""

    @property
    def is_equal(self) -> bool:
        """Whether all that follows from the counts is as it is stored."""
        return not self.differences

    def __str__(self) -> str:
        """Return the outcome in a line, with what computed the bounds."""
        found = f"{len(self.differences):,} DIFFERENCES" if self.differences else "equal"
        if not self.num_blocks:
            return f"{self.path}: {found}; nothing was computed again"
        by = "statsmodels" if self.is_independent else "rsray's own code"
        more = f"; its reused counts were not compared: {self.not_compared}"
        return (
            f"{self.path}: {found}; {self.num_certificates:,} certificates computed again from "
            f"{self.num_blocks:,} blocks of counts, {self.bound} by {by}"
            f"{more if self.not_compared else ''}"
        )


def verify(cert: Place) -> Verification:
    """Return in what the files of a finished CERT differ from what its counts say.

    UserError where there is no such CERT, or it has no counts.
    """
    if cert.exists(CERT_FILE) and cert.exists(TABLE) and not cert.exists("counts"):
        raise UserError(f"{cert} has no counts: its certificates cannot be computed again")
    try:
        record = finished_record(cert)
        claimed, stored = reopen(cert, record), read_rows(cert / TABLE)
    except UserError as problem:
        # Of a run that ended one of these is left whatever else was taken away.
        if not (cert.exists(TABLE) or cert.exists(SUMMARY)):
            raise
        unreadable = Difference("CERT", "what it holds", f"of no use ({problem})", "as a run wrote")
        return Verification(str(cert), 0, 0, "", (unreadable,))
    found = Verification(str(cert), len(stored), 0, claimed.plan.bound.name, (*_rows(stored),))
    return found if not found.is_equal else _computed_again(found, claimed, record, stored)


def _computed_again(
    found: Verification, claimed: Claimed, record: Mapping[str, Any], stored: Certificates
) -> Verification:
    selected = _selected(stored)
    counts = CheckedCounts(claimed.store, selected, claimed.plan)
    failed_N = np.isin(selected.indices, list(stored.failed))
    evidence = counts.gathered.evidence()
    columns: Columns = dict(certificate_columns(selected, evidence, claimed.plan))
    if FROM in record:
        columns["skipped"] = undrawn(columns["n"], claimed.config)
    columns = {name: values[~failed_N] for name, values in columns.items()}
    independent = columns_by_statsmodels(evidence, claimed.plan)
    others = {name: values[~failed_N] for name, values in (independent or {}).items()}
    differences = [
        *_images(claimed.config, selected),
        *counts.differences,
        *counts.copies(_wanted(claimed, record, counts), failed_N),
        *_certificates(stored, columns, others),
        *_figures(claimed, record, stored, columns, counts.gathered),
        *log_differences(claimed.folder, selected, failed_N, columns),
    ]
    not_compared = ""
    if claimed.plan.is_paired and not counts.differences:
        try:
            differences += _unlike_earlier(claimed, record, selected)
        except (UserError, OSError) as problem:
            not_compared = str(problem)
    return replace(
        found,
        num_blocks=int(counts.copies_NB.sum()),
        differences=tuple(differences),
        is_independent=independent is not None,
        not_compared=not_compared,
    )


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
    certified = dict(zip(stored.index.tolist(), stored.label.tolist(), strict=True))
    labels, index_N = stored.failed_labels | certified, stored.selected
    labels_N = [labels.get(index, -1) for index in index_N.tolist()]
    return Selected(index_N, np.array(labels_N, dtype=np.int64))


def _drawn(claimed: Claimed, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings by which the counts were drawn: of a CERT made from another, the first's.

    What a run asks of its draws follows from them.
    """
    drawn = record.get(DRAWN, record.get(FROM)) or claimed.config.model_dump()
    return {name: drawn[name] for name in ("alpha", "bound", "n")}


def _wanted(
    claimed: Claimed, record: Mapping[str, Any], counts: CheckedCounts
) -> NDArray[np.int64]:
    """Return how many estimation blocks each image [N] is owed.

    Of a CERT made from another's counts: as many as the settings asked for by which they were
    drawn; those beyond its own n do not count.
    """
    if FROM in record:
        settings = {**claimed.config.model_dump(), **_drawn(claimed, record)}
        plan = SamplingPlan.of(CertifyConfig.make(settings))
        if not plan.at_radius and plan.bound.is_soft == claimed.plan.bound.is_soft:
            found = counts.gathered.evidence()
            labels_N, hits_N = counts.selected.labels, found.selection_hits
            return plan.wanted_blocks(labels_N, found.selected_class, hits_N)
        counts = CheckedCounts(claimed.store, counts.selected, plan)
    return counts.gathered.stored_draws().wanted_N


def _certificates(stored: Certificates, columns: Columns, others: Columns) -> Iterator[Difference]:
    """Yield what differs from the certificates computed again, and from those by statsmodels."""
    mine, is_exact = stored.columns(), _is_exact(stored)
    by = {
        each.what: each
        for expected, exactly in ((others, False), (columns, is_exact))
        for each in column_differences(TABLE, stored.index, mine, expected, is_exact=exactly)
    }
    yield from by.values()


def _is_exact(stored: Certificates) -> bool:
    """Tell whether this machine computes to the last bit what made the certificates."""
    return stored.metadata.get(DECIDED_BY) == arithmetic()


def _images(config: CertifyConfig, selected: Selected) -> Iterator[Difference]:
    """Yield a difference unless the settings select these images from a set of some size.

    The size is not recorded: that images are missing at the end only an audit sees.
    """
    rule = (config.start, config.skip, config.limit)
    if not may_be_selected(selected.indices, *rule, is_spread=config.is_spread):
        asked = f"as start {config.start}, skip {config.skip} and limit {config.limit} say"
        yield Difference(TABLE, "index", f"{len(selected.indices)} images", asked)


def _figures(
    claimed: Claimed,
    record: Mapping[str, Any],
    stored: Certificates,
    columns: Columns,
    gathered: GatheredCounts,
) -> Iterator[Difference]:
    """Yield what differs in the metadata, the summary and the answers of at-radius."""
    is_made_again, is_exact = FROM in record, _is_exact(stored)
    more = {FROM: record[FROM]} if is_made_again else reuse_figures(gathered, columns)
    summary = _read_json(claimed.folder, SUMMARY)
    expected = conclusion(
        claimed,
        columns,
        counts_digest=gathered.digest,
        # These follow from nothing
        seconds=_measured(summary.get("seconds")),
        decided_by=stored.metadata.get(DECIDED_BY),
        failed=stored.failed,
        failed_labels=stored.failed_labels,
        **more,
    )
    unrecorded = _unrecorded(record, stored.metadata)
    for file, mine, right, what in (
        (TABLE, stored.metadata, expected.metadata, "metadata"),
        (SUMMARY, summary, expected.summary, ""),
    ):
        known = {k: v for k, v in right.items() if k in mine or k not in unrecorded}
        yield from value_differences(file, mine, known, what, is_exact=is_exact)
    if expected.at_radius is not None:
        answers = _read_json(claimed.folder, AT_RADIUS)
        yield from value_differences(AT_RADIUS, answers, expected.at_radius, is_exact=is_exact)


def _measured(seconds: Any) -> float | None:
    """Return a duration that a summary tells; None for what is none."""
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    return float(seconds) if is_number and seconds >= 0 else None


def _unrecorded(record: Mapping[str, Any], metadata: Mapping[str, Any]) -> set[str]:
    """Return the metadata that a version which did not know a setting yet could not write."""
    settings = set(CertifyConfig.model_fields) - set(record)
    settings |= {"noise_total_variation"} if "noise" in settings else set()
    return settings | ({COUNTS_DIGEST, DECIDED_BY} if DECIDED_BY not in metadata else set())


def _read_json(cert: Place, name: str) -> dict[str, Any]:
    """Return what a file of JSON holds; nothing where it is missing or holds something else."""
    try:
        found = from_json(cert.read(name), name)
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _unlike_earlier(
    claimed: Claimed, record: Mapping[str, Any], selected: Selected
) -> Iterator[Difference]:
    """Yield what differs from the CERT whose counts are used again; UserError where it is gone."""
    from rsray.certification.reuse import open_earlier, unlike_earlier

    earlier = open_earlier(str(claimed.config.reuse))
    if earlier.claimed.run_id != claimed.config.reused_run:
        raise UserError(f"{claimed.config.reuse} holds another certification now")
    num_pairs = -(-_drawn(claimed, record)["n"] // claimed.config.block_size)
    yield from unlike_earlier(claimed.store, earlier, selected, num_pairs)
