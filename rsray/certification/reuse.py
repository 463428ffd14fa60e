"""Counts of a certified network, used again for another one near it: what must agree, and does.

The earlier network makes stored draws again, as it was evaluated then, beside the new one; each of
its counts must be the one that is stored. The mathematics is in rsray/core/README.md, 9.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from rsray.certification.checks.differences import Difference
from rsray.certification.counts.check import FILE
from rsray.certification.counts.store import CountStore, Selected
from rsray.certification.counts.tables import (
    class_entries,
    column,
    first_difference,
    is_reused,
    is_selection,
    rows_where,
)
from rsray.certification.folder import Claimed, finished_record, reopen
from rsray.certification.networks.opening import open_denoiser, open_source
from rsray.certification.networks.source import KNOWN, ClassifierSource
from rsray.config import CertifyConfig
from rsray.data import ImageSplit
from rsray.errors import UserError
from rsray.models.factory import is_factory
from rsray.storage import Place
from rsray.storage.schemas import COUNTS, PAIRED_COUNTS

# What a draw depends on beside the network, and which images are drawn.
SAME = (
    "dataset", "split", "image_size", "channels", "label_column", "sigma", "noise", "seed", "n0",
    "block_size", "start", "skip", "limit", "is_spread",
)  # fmt: skip
SAME_CLASSES = ("num_classes", "classes", "image_shape")
# In a CERT, the part of the counts that are used again.
PART = "part-reused.parquet"


class EarlierCertification(NamedTuple):
    """A finished certification of a network that can be evaluated again."""

    claimed: Claimed
    source: ClassifierSource | None = None

    def settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what was given, and of the rest what must be, or usually is, as it was here."""
        old, block = self.claimed.config, self.claimed.config.block_size
        tenth = min(old.n, max(1, old.n // 10 // block) * block)
        known = {name: getattr(old, name) for name in SAME}
        sampling = "skip" if old.sampling == "adaptive" else old.sampling
        rest = {"n": tenth, "alpha": old.alpha, "sampling": sampling}
        return {**known, **rest, **given, "reused_run": self.claimed.run_id}

    def check(self, config: CertifyConfig) -> None:
        """Raise UserError where the new certification has other images, noise or classes."""
        old, cert = self.claimed.config, self.claimed.folder
        for name in (*SAME, *SAME_CLASSES):
            mine, theirs = getattr(config, name), getattr(old, name)
            if mine != theirs:
                raise UserError(
                    f"the counts of {cert} cannot be used: {name} is {mine!r} now but was "
                    f"{theirs!r}"
                )
        block = config.block_size
        if config.n > old.n or (config.n != old.n and config.n % block):
            raise UserError(
                f"n is {config.n}: with --reuse at most the {old.n} draws of {cert}, "
                f"and a multiple of its block size {block}"
            )

    def with_source(self, config: CertifyConfig, split: ImageSplit) -> EarlierCertification:
        """Return it with its network opened; UserError where that is not the one it counted."""
        old, cert = self.claimed.config, self.claimed.folder
        where = config.reuse_model or old.source
        if old.model.partition(":")[1] and old.model != config.model:
            raise UserError(
                f"{cert} is of a network that the factory {old.model} makes, which only your "
                "own word imports: its counts can be used for a --model of that factory alone"
            )
        if old.denoiser and is_factory(old.denoiser) and old.denoiser != config.denoiser:
            raise UserError(
                f"{cert} has a denoiser that the factory {old.denoiser} makes, which only "
                "your own word imports: its counts can be used for that --denoiser alone"
            )
        known = {name: getattr(old, name) for name in KNOWN if name != "data_root"}
        # What --normalise takes to state the recorded normalisation once more.
        found = open_source(where).given(**known, normalise=old.normalisation)
        if old.denoiser:
            found = found.settled(split).behind(open_denoiser(old.denoiser), split)
        if found.digest != old.model_digest:
            raise UserError(
                f"{where} holds other weights than {cert} was made with: give the network of "
                "that certification with --reuse-model"
            )
        return self._replace(source=found if old.denoiser else found.settled(split))

    def reused_rows(self, selected: Selected, num_pairs: int) -> pa.Table:
        """Return the counts of each image beyond its first blocks, a row of `reused`.

        The first `num_pairs` blocks are those that both networks draw.
        """
        totals_NK = np.zeros(
            (len(selected.indices), self.claimed.config.num_classes), dtype=np.int64
        )
        for table in self.claimed.store.blocks(selected):
            is_beyond = ~is_selection(table) & (column(table, "block") >= num_pairs)
            table = rows_where(table, is_beyond)
            entries = class_entries(table)
            position_R = selected.positions(column(table, "index"))
            cell = (position_R[entries.row_E], entries.class_E)
            np.add.at(totals_NK, cell, entries.values["counts"])
        return _reused_rows(selected, totals_NK)

    def stored_blocks(self, selected: Selected, num_blocks: int) -> pa.Table:
        """Return the counts of the selection and of the first blocks of each image."""
        tables = [COUNTS.empty_table()]
        for table in self.claimed.store.blocks(selected):
            is_used = is_selection(table) | (column(table, "block") < num_blocks)
            used = rows_where(table, is_used)
            # Beside sums, classes stand that no draw fell on.
            has_sums = used.column_names != COUNTS.names
            tables.append(_counts_in(used, "counts") if has_sums else used.cast(COUNTS))
        return pa.concat_tables(tables).combine_chunks()


def open_earlier(where: str) -> EarlierCertification:
    """Return a finished certification; UserError for one whose counts cannot be used again."""
    cert = Place.of(where)
    claimed = reopen(cert, finished_record(cert))
    config = claimed.config
    if config.soft or config.at_radius or config.reused_run:
        what = "soft bounds" if config.soft else "--at-radius" if config.at_radius else "--reuse"
        raise UserError(f"{where} was made with {what}: its counts cannot be used with --reuse")
    return EarlierCertification(claimed)


def check_repeated(paired: pa.Table, stored: pa.Table, cert: Place) -> None:
    """Raise UserError where the earlier network counts otherwise now than it did."""
    before = _counts_in(paired, "before")
    row = first_difference(before, stored)
    if row is not None:
        found = before.slice(row, 1).to_pylist()[0]
        raise UserError(
            f"the network of {cert} counts otherwise here, in {found['stage']} block "
            f"{found['block']} of image {found['index']}: on another chip or with other versions "
            "its counts cannot be used; certify without --reuse"
        )


def unlike_earlier(
    store: CountStore, earlier: EarlierCertification, selected: Selected, num_pairs: int
) -> Iterator[Difference]:
    """Yield the counts of the earlier network, in a CERT, that are not those of its own CERT."""
    reused = earlier.reused_rows(selected, num_pairs)
    drawn = earlier.stored_blocks(selected, num_pairs)
    for table in store.parts():
        is_reused_R = is_reused(table)
        pairs = (
            (rows_where(table, is_reused_R), reused),
            (_counts_in(rows_where(table, ~is_reused_R), "before"), drawn),
        )
        for mine, right in pairs:
            row = first_difference(mine, right)
            if row is not None:
                at = mine.slice(row, 1).to_pylist()[0]
                what = f"what was counted before in {at['stage']} block {at['block']} of image "
                yield Difference(FILE, f"{what}{at['index']}", at["counts"], "as in its own CERT")


def _counts_in(table: pa.Table, name: str) -> pa.Table:
    """Return as COUNTS what a column of lists counts; rows and classes of no draw are left out."""
    rows = []
    for row in table.to_pylist():
        counts = {k: n for k, n in zip(row["classes"], row[name], strict=True) if n}
        if counts:
            rows.append({**row, "classes": list(counts), "counts": list(counts.values())})
    return pa.Table.from_pylist(rows, schema=COUNTS)


def _reused_rows(selected: Selected, counts_NK: np.ndarray) -> pa.Table:
    """Return a row for each image, also of no draws: every image owes one."""
    rows = []
    images = zip(selected.indices.tolist(), selected.labels.tolist(), counts_NK, strict=True)
    for index, label, counts_K in images:
        classes = np.flatnonzero(counts_K) if counts_K.any() else np.zeros(1, dtype=np.int64)
        nothing = [0] * len(classes)
        values = (
            index, label, "reused", 0, int(counts_K.sum()), classes.tolist(),
            counts_K[classes].tolist(), nothing, nothing,
        )  # fmt: skip
        rows.append(dict(zip(PAIRED_COUNTS.names, values, strict=True)))
    return pa.Table.from_pylist(rows, schema=PAIRED_COUNTS)
