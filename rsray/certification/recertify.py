"""New certificates from stored counts: another alpha, bound or n, without model or sampling."""

# Shapes: N images.
from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from rsray.certification.counts.certificate_columns import certificate_columns
from rsray.certification.counts.gathering import GatheredCounts, gather
from rsray.certification.counts.store import CountStore, Selected
from rsray.certification.counts.tables import column, is_selection, rows_where
from rsray.certification.folder import (
    CERT_FILE,
    SUMMARY,
    TABLE,
    Claimed,
    conclude,
    finished_record,
    reopen,
    run_id,
)
from rsray.config import CertifyConfig
from rsray.errors import UserError
from rsray.results.certificates import Certificates, read_certificates
from rsray.results.summary import read_summary
from rsray.storage import Place
from rsray.storage.address import address_beside
from rsray.storage.ownership import read_own_record
from rsray.storage.yaml_files import to_yaml

log = logging.getLogger(__name__)
# In certify.yaml: the CERT that the counts are of, and the settings by which they were drawn.
FROM, DRAWN = "recertified_from", "drawn_with"


def recertify(
    source: Place,
    target: Place,
    *,
    alpha: float | None = None,
    bound: str | None = None,
    n: int | None = None,
) -> dict[str, Any]:
    """Write a complete CERT with other settings from the counts of `source`; returns its summary.

    Streams: one part of the counts is in memory at a time. A smaller n takes a prefix of each
    image's blocks: with fixed and skip the certificates are those of a run with that n. With
    adaptive and at-radius an image keeps the draws that the old settings asked for, at most n:
    as sound, but a run with the new settings may draw more or fewer. Raises UserError for settings
    that the stored counts cannot answer, counts that are damaged, or a target that holds something
    else; the target is then as it was.
    """
    record = finished_record(source)
    was = reopen(source, record)
    old, store = was.config, was.store
    config = _changed(old, store, alpha=alpha, bound=bound, n=n)
    before = read_certificates(source / TABLE)
    made_from = {"cert": str(source), "alpha": old.alpha, "bound": old.bound, "n": old.n}
    _check_target(source, target, config, made_from)
    claimed = replace(was, folder=target, config=config, run_id=run_id(config))
    selected = Selected(before.index.astype(np.int64), before.label.astype(np.int64))
    counts = _CountsUsed(store, source, selected, claimed.plan.num_blocks)
    gathered = gather(counts, selected, claimed.plan)
    columns = _columns(gathered, claimed, old)
    _check_draws(source, before, columns, config.n)
    _check_answers(was, claimed, columns)
    target.make()
    with target.locked():
        # Another may have ended meanwhile
        _check_target(source, target, config, made_from)
        drawn = record.get(DRAWN, {name: getattr(old, name) for name in ("alpha", "bound", "n")})
        record = {**record, **config.model_dump(mode="json"), FROM: made_from, DRAWN: drawn}
        _copy(counts, selected, claimed, record)
        known = {FROM: made_from, "counts_digest": gathered.digest}
        return _conclude(source, claimed, columns, before, known)


def _columns(
    gathered: GatheredCounts, claimed: Claimed, old: CertifyConfig
) -> dict[str, np.ndarray]:
    """Return the new certificates' columns; an image without draws is called skipped."""
    config, selected, evidence = claimed.config, gathered.selected, gathered.evidence()
    columns = certificate_columns(selected, evidence, claimed.plan)
    undrawn_N = undrawn(columns["n"], config)
    # The new selection, unlike the old, hits their label.
    lacking_N = undrawn_N & ~claimed.plan.skips(evidence.selected_class, selected.labels)
    if lacking_N.any():
        log.warning(
            "%d images have no estimation draws: %s missed their label, %s does not; they count 0, "
            "so the ACR is below that of a run with %s",
            lacking_N.sum(), old.bound, config.bound, config.bound,
        )  # fmt: skip
    return {**columns, "skipped": undrawn_N}


def undrawn(n_N: np.ndarray, config: CertifyConfig) -> np.ndarray:
    """Tell which images of a CERT made from another's counts are called skipped."""
    return np.asarray((n_N == 0) & (config.sampling != "fixed"))


def _copy(counts: CountStore, selected: Selected, claimed: Claimed, record: dict[str, Any]) -> None:
    """Write certify.yaml and the counts that are used, in place of what stood there.

    This reads the counts a second time: nothing may be written before all of them were found
    sound, and they do not fit in memory.
    """
    for name in (SUMMARY, TABLE, "counts"):
        claimed.folder.delete(name)
    claimed.folder.write(CERT_FILE, to_yaml(record))
    target = claimed.store
    for table in counts.blocks(selected):
        if len(table):
            target.append(table)


class _CountsUsed(CountStore):
    """The counts of a run that new certificates rest on: its images' first blocks."""

    def __init__(self, store: CountStore, cert: Place, selected: Selected, num_blocks: int) -> None:
        super().__init__(cert, store.run_id, store.num_classes)
        self.selected, self.num_blocks = selected, num_blocks

    def read(self, name: str) -> pa.Table:
        table = super().read(name)
        is_used = is_selection(table) | (column(table, "block") < self.num_blocks)
        is_used &= np.isin(column(table, "index"), self.selected.indices)
        return rows_where(table, is_used)


def default_target(
    source: str, *, alpha: float | None = None, bound: str | None = None, n: int | None = None
) -> str:
    """Return the source's address with the changes added: `runs/c-alpha0.01-tcertify`."""
    parts = [f"alpha{alpha:g}" if alpha is not None else "", bound or "", f"n{n}" if n else ""]
    return address_beside(source, "".join(f"-{part}" for part in parts if part))


def _changed(old: CertifyConfig, store: CountStore, **changes: Any) -> CertifyConfig:
    """Return the configuration with the changes that are not None; UserError for one that fails."""
    given = {key: value for key, value in changes.items() if value is not None}
    config = CertifyConfig.make({**old.model_dump(), **given})
    if config.soft and not store.has_sums():
        raise UserError(
            f"bound {config.bound} needs sums of soft probabilities, which {store.folder} does not "
            "hold: certify with --bound hoeffding or bernstein, or choose clopper-pearson or "
            "tcertify"
        )
    if config.n > old.n:
        raise UserError(f"n is {config.n}, but only {old.n} draws an image are stored")
    if config.n != old.n and config.n % old.block_size:
        raise UserError(
            f"n is {config.n}: a smaller n must be a multiple of the block size {old.block_size}"
        )
    return config


def _check_target(
    source: Place, target: Place, config: CertifyConfig, made_from: dict[str, Any]
) -> None:
    """Raise UserError unless the target is new, or was made by this same recertification."""
    if target.uri == source.uri:
        raise UserError(f"--out {target} is the CERT itself: choose another folder")
    record = read_own_record(target, CERT_FILE, config, "certification")
    if record is not None and record.get(FROM) != made_from:
        raise UserError(f"{target} holds another certification; use another --out")


def _check_draws(
    source: Place, before: Certificates, columns: dict[str, np.ndarray], n: int
) -> None:
    """Raise UserError when counts that the old certificates rest on are not stored."""
    lost = (columns["n0"] != before.n0) | (columns["n"] != np.minimum(before.n, n))
    if lost.any():
        names = ", ".join(map(str, before.index[lost][:10].tolist()))
        raise UserError(
            f"{source} lacks counts of {int(lost.sum())} images ({names}): run `rsray certify` "
            "again with its --out"
        )


def _check_answers(was: Claimed, claimed: Claimed, columns: dict[str, np.ndarray]) -> None:
    """Raise UserError where draws stopped at answers by the old alpha that are none by the new."""
    plan = claimed.plan
    if not plan.at_radius:
        return
    is_open = (columns["n"] < plan.n) & ~plan.is_answered(columns["count_a"], columns["n"])
    if num_open := int(np.sum(is_open & (columns["n"] > 0))):
        raise UserError(
            f"alpha is {plan.alpha:g}: the draws of {num_open} images in {was.folder} stopped once "
            f"alpha {was.plan.alpha:g} answered its radii, and are too few for that; run "
            "`rsray certify` with another --out"
        )


def _conclude(
    source: Place,
    claimed: Claimed,
    columns: dict[str, np.ndarray],
    before: Certificates,
    known: dict[str, Any],
) -> dict[str, Any]:
    """Write the results; the time is that which the sampling of these draws took."""
    old = read_summary(source / SUMMARY) if source.exists(SUMMARY) else {}
    speed = old.get("draws_per_second")
    draws = int(columns["n0"].sum() + columns["n"].sum())
    return conclude(
        claimed,
        columns,
        seconds=draws / speed if speed else None,
        failed=before.failed,
        failed_labels=before.failed_labels,
        **known,
    )
