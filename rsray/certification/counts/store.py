"""Durable counts: Parquet parts in CERT/counts, each written whole."""

# Shapes: N selected images, R rows.
from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rsray.certification.counts.tables import (
    LISTS,
    ClassEntries,
    StoredBlocks,
    class_entries,
    column,
    first_difference,
    is_reused,
    rows_where,
)
from rsray.config import MOST_BLOCKS
from rsray.errors import UserError
from rsray.storage import Place, one_line, read_file
from rsray.storage.schemas import (
    COUNTS,
    PAIRED_COUNTS,
    SOFT_COUNTS,
    parquet_bytes,
    run_metadata,
)

log = logging.getLogger(__name__)
SCHEMAS = (COUNTS, SOFT_COUNTS, PAIRED_COUNTS)
CODEC: Final = "zstd"
STAGES = ("selection", "estimation", "reused")


@dataclass(frozen=True)
class Selected:
    """The images of a run: indices in the split [N], ascending, and their labels [N]."""

    indices: NDArray[np.int64]
    labels: NDArray[np.int64]

    def positions(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where each index stands; UserError for one that was not selected."""
        found = np.searchsorted(self.indices, indices)
        found = np.minimum(found, len(self.indices) - 1)
        strangers = indices[self.indices[found] != indices]
        if len(strangers):
            raise UserError(
                f"the stored counts hold image {strangers[0]}, which this run does not select"
            )
        return found


class DamagedError(UserError):
    """A part of the counts was cut off, or a bit in it flipped."""


class CountStore:
    """The parts of one run. Only the driver writes; `run_id` keeps other runs' parts out."""

    def __init__(self, cert: Place, run_id: str, num_classes: int = 2**31) -> None:
        """Open CERT/counts, whether or not it is there."""
        self.folder = cert / "counts"
        self.run_id, self.num_classes = run_id, num_classes

    def append(self, table: pa.Table, name: str | None = None) -> None:
        """Write one part; it exists whole or not at all.

        Whoever may have to write it again names it, by `new_name`: the part is then replaced.
        """
        schema = next((each for each in SCHEMAS if each.names == table.column_names), COUNTS)
        content = parquet_bytes(
            table.cast(schema),
            {"run": self.run_id},
            compression=CODEC,
            write_page_checksum=True,
        )
        self.folder.make()
        self.folder.write(name or self.new_name(), content)

    def new_name(self) -> str:
        """Return a name that no part has."""
        return f"part-{len(self.names()):06d}-{uuid.uuid4().hex[:8]}.parquet"

    def has_sums(self) -> bool:
        """Tell whether sums of soft probabilities are stored: as the first part's schema says."""
        for name in self.names()[:1]:
            return "sums" in pq.read_schema(pa.BufferReader(self.folder.read(name))).names
        return False

    def names(self) -> list[str]:
        """Return the names of the parts."""
        return self.folder.names(".parquet")

    def _read_or_drop(self, name: str) -> pa.Table | None:
        """Return a part; None, and it is deleted, where it is damaged: its blocks are owed again.

        UserError for a part that cannot be read just now, or belongs to another run: it stays.
        """
        try:
            return self.read(name)
        except DamagedError as problem:
            log.warning(
                "%s/%s is damaged and will be counted again: %s",
                self.folder,
                name,
                one_line(problem.__cause__ or problem),
            )
            self.folder.delete(name)
            return None

    def parts(self) -> Iterator[pa.Table]:
        """Yield the parts, one at a time."""
        for name in self.names():
            yield self.read(name)

    def blocks(self, selected: Selected, *, drop_damaged: bool = False) -> Iterator[pa.Table]:
        """Yield the parts of the selected images, one at a time, each block of draws once.

        A write that was broken off and repeated, or a process that slept while another took over,
        may have stored a block twice. UserError where the two differ. With `drop_damaged`, damaged
        parts (cut off, or a bit flipped) are deleted, and what is stored twice is stored once.
        """
        met, names = StoredBlocks(len(selected.indices)), []
        for name in self.names():
            table = self._read_or_drop(name) if drop_damaged else self.read(name)
            if table is None:
                continue
            names.append(name)
            repeated_R = met.is_repeated(table, selected.positions(column(table, "index")))
            if repeated_R.any():
                self._check_same(rows_where(table, repeated_R), names)
                table = rows_where(table, ~repeated_R)
                if drop_damaged and len(table):
                    self.append(table, name)
                elif drop_damaged:
                    self.folder.delete(names.pop())
                    continue
            yield table

    def _check_same(self, repeated: pa.Table, names: list[str]) -> None:
        """Raise UserError unless the rows, of the last of the parts, are as in all of them.

        The parts are read once more: it is rare that a block is stored twice.
        """
        for name in names:
            row = first_difference(repeated, self.read(name))
            if row is not None:
                found = repeated.slice(row, 1).to_pylist()[0]
                raise UserError(
                    f"{self.folder} holds two unlike counts of image {found['index']}, "
                    f"{found['stage']} block {found['block']}: delete "
                    f"{' and '.join(dict.fromkeys([name, names[-1]]))} there, and run "
                    "`rsray certify` again with its --out"
                )

    def read(self, name: str) -> pa.Table:
        """Return a part; DamagedError, or UserError where it cannot be read or is another run's."""
        where = self.folder / name
        try:
            content = read_file(where)
        except MemoryError as problem:
            raise UserError(f"no memory to read {where}") from problem
        try:
            table = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
            about = run_metadata(table.schema, str(where))
            run = about.get("run") if isinstance(about, dict) else None
            if run == self.run_id:
                _check_rows(table, self.num_classes)
        except MemoryError as problem:  # pyarrow's too, which is an ArrowException as well
            raise UserError(f"no memory to read {where}") from problem
        except (pa.ArrowException, OSError, ValueError) as problem:
            if not pa.Codec.is_available(CODEC):
                # The part may be sound, and stays for an installation that reads it.
                raise UserError(f"cannot read {where} here: {one_line(problem)}") from problem
            raise DamagedError(
                f"{where} is damaged ({one_line(problem)}): run `rsray certify` again with its "
                "--out to draw what it held"
            ) from problem
        if run != self.run_id:
            raise UserError(f"{where} holds counts of another run")
        return table


def _check_rows(table: pa.Table, num_classes: int) -> None:
    """Raise ValueError for rows that no run writes."""
    if not any(table.schema.equals(schema) for schema in SCHEMAS):
        raise ValueError(f"its columns are {', '.join(table.column_names)}")
    names = [name for name in ("classes", *LISTS) if name in table.column_names]
    lists: Any = {name: table[name].combine_chunks() for name in names}
    inside = [each.values for each in lists.values()]
    if any(each.null_count for each in (*table.columns, *inside)):
        raise ValueError("a value is missing")
    if not all(
        np.isfinite(each.to_numpy()).all() and (each.to_numpy() >= 0).all() for each in inside
    ):
        raise ValueError("a count is negative or not finite")
    if (lists["classes"].values.to_numpy() >= num_classes).any():
        raise ValueError(f"a class is none of the {num_classes} of the run")
    block_R, draws_R = column(table, "block"), column(table, "draws")
    # Of an earlier network nothing may be left.
    has_draws_R = (draws_R > 0) | (is_reused(table) & (draws_R == 0))
    if not ((block_R >= 0) & (block_R < MOST_BLOCKS) & has_draws_R).all():
        raise ValueError("a block has no draws, or a number that no block has")
    if set(table["stage"].unique().to_pylist()) - set(STAGES):
        raise ValueError(f"a stage is none of {', '.join(STAGES)}")
    entries = class_entries(table)
    _check_sums(lists, entries, draws_R)
    if "sums" in lists:
        _check_probabilities(entries, draws_R)
    if "kept" in lists:
        _check_pairs(entries, draws_R)


def _check_sums(lists: Any, entries: ClassEntries, draws_R: NDArray[np.int64]) -> None:
    """Raise ValueError unless the counts of every row, one for each class, make its draws."""
    offsets = lists["counts"].offsets.to_numpy()
    lengths = [np.diff(each.offsets.to_numpy()) for each in lists.values()]
    counts = lists["counts"].values.to_numpy()
    sums = np.diff(np.concatenate(([0], np.cumsum(counts)))[offsets])
    is_whole = all(np.array_equal(each, lengths[0]) for each in lengths)
    if not is_whole or (counts > draws_R.max(initial=0)).any() or not np.array_equal(sums, draws_R):
        raise ValueError("the counts do not add up to the draws")
    if ((np.diff(entries.class_E) <= 0) & (np.diff(entries.row_E) == 0)).any():
        raise ValueError("the classes of a block are not ascending")


def _check_probabilities(entries: ClassEntries, draws_R: NDArray[np.int64]) -> None:
    """Raise ValueError for sums and sums of squares that no probabilities have."""
    row_E, sums_E, squares_E = entries.row_E, entries.values["sums"], entries.values["square_sums"]
    total_R = np.bincount(row_E, weights=sums_E, minlength=len(draws_R))
    # Squares are rounded up; what float32 computes adds up to a little more or less than 1.
    highest_E = sums_E + draws_R[row_E] * 2.0**-24
    lowest_E = sums_E**2 / draws_R[row_E]
    is_square_E = (squares_E <= highest_E) & (squares_E >= lowest_E * (1 - 1e-9))
    if (total_R > draws_R * (1 + 1e-5)).any() or not is_square_E.all():
        raise ValueError("the sums are of no probabilities")


def _check_pairs(entries: ClassEntries, draws_R: NDArray[np.int64]) -> None:
    """Raise ValueError unless an earlier network made all draws of a block or none."""
    before_E, kept_E = entries.values["before"], entries.values["kept"]
    total_R = np.bincount(entries.row_E, weights=before_E, minlength=len(draws_R))
    is_beyond_E = kept_E > np.minimum(before_E, entries.values["counts"])
    if ((total_R != 0) & (total_R != draws_R)).any() or is_beyond_E.any():
        raise ValueError("the pairs are no draws of both networks")
