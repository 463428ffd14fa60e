"""Durable counts: Parquet parts in CERT/counts, each written whole."""

# Shapes: N selected images, T estimation blocks per image.
from __future__ import annotations

import itertools
import json
import logging
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rsray.certification.demand import Demand
from rsray.certification.plan import Done, Draws
from rsray.certification.tally import (
    Seen,
    column,
    hits_by_row,
    is_selection,
    selection_counts,
    unlike,
)
from rsray.core.noise import Stage
from rsray.errors import UserError
from rsray.storage import Place, one_line, read_file

log = logging.getLogger(__name__)
RUN_KEY = b"rsray"


def _field(name: str, kind: pa.DataType, meaning: str) -> pa.Field[pa.DataType]:
    return pa.field(name, kind, nullable=False, metadata={"meaning": meaning})


COUNTS = pa.schema(
    [
        _field("index", pa.int64(), "index of the image in its split"),
        _field("label", pa.int32(), "class of the image"),
        _field("stage", pa.string(), "selection or estimation"),
        _field("block", pa.int32(), "number of the block of draws within image and stage"),
        _field("draws", pa.int64(), "noisy copies in the block"),
        _field("classes", pa.list_(pa.int32()), "classes that were seen, ascending"),
        _field("counts", pa.list_(pa.int64()), "draws that fell in each of them"),
    ]
)
# For soft bounds, `classes` are all whose sum is not 0; a count of theirs may be.
SOFT_COUNTS = pa.schema(
    [
        *COUNTS,
        _field("sums", pa.list_(pa.float64()), "soft probabilities of each of them, summed"),
        _field("square_sums", pa.list_(pa.float64()), "their squares, summed"),
    ]
)


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


def block_rows(
    index: int,
    label: int,
    stage: Stage,
    blocks: list[tuple[int, int]],
    counts_TK: NDArray[np.int64],
) -> list[dict[str, object]]:
    """Return rows of COUNTS for the counts of some blocks, given as (block, draws)."""
    rows: list[dict[str, object]] = []
    for (block, draws), counts_K in zip(blocks, counts_TK, strict=True):
        classes = np.flatnonzero(counts_K)
        rows.append(
            {
                "index": index,
                "label": label,
                "stage": stage,
                "block": block,
                "draws": draws,
                "classes": classes.tolist(),
                "counts": counts_K[classes].tolist(),
            }
        )
    return rows


def moment_rows(
    index: int,
    label: int,
    stage: Stage,
    blocks: list[tuple[int, int]],
    moments: tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]],
) -> list[dict[str, object]]:
    """Return rows of SOFT_COUNTS for (counts, sums, square sums) [T, K] of some blocks."""
    counts_TK, sums_TK, squares_TK = moments
    rows = block_rows(index, label, stage, blocks, counts_TK)
    for row, counts_K, sums_K, squares_K in zip(rows, counts_TK, sums_TK, squares_TK, strict=True):
        classes = np.flatnonzero((sums_K > 0) | (counts_K > 0))
        row["classes"], row["counts"] = classes.tolist(), counts_K[classes].tolist()
        row["sums"], row["square_sums"] = sums_K[classes].tolist(), squares_K[classes].tolist()
    return rows


class DamagedError(UserError):
    """A part of the counts was cut off, or a bit in it flipped."""


class CountStore:
    """The parts of one run. Only the driver writes; `run_id` keeps other runs' parts out."""

    def __init__(self, cert: Place, run_id: str) -> None:
        """Open CERT/counts, creating it."""
        self.folder = (cert / "counts").make()
        self.run_id = run_id

    def append(self, table: pa.Table, name: str | None = None) -> None:
        """Write one part; it exists whole or not at all.

        Whoever may have to write it again names it, by `new_name`: the part is then replaced.
        """
        columns = SOFT_COUNTS if "sums" in table.column_names else COUNTS
        metadata = {RUN_KEY: json.dumps({"run": self.run_id}).encode()}
        sink = pa.BufferOutputStream()
        pq.write_table(
            table.cast(columns).replace_schema_metadata(metadata),
            sink,
            compression="zstd",
            write_page_checksum=True,
        )
        self.folder.write(name or self.new_name(), sink.getvalue().to_pybytes())

    def new_name(self) -> str:
        """Return a name that no part has."""
        return f"part-{len(self.names()):06d}-{uuid.uuid4().hex[:8]}.parquet"

    def has_sums(self) -> bool:
        """Tell whether sums of soft probabilities are stored."""
        return any("sums" in table.column_names for table in itertools.islice(self.parts(), 1))

    def names(self) -> list[str]:
        """Return the names of the parts."""
        return self.folder.names(".parquet")

    def drop_damaged(self) -> list[str]:
        """Delete parts that are damaged (cut off, or a bit flipped) and return their names.

        Their blocks are owed again. UserError for a part that cannot be read just now, or belongs
        to another run: it stays.
        """
        damaged = []
        for name in self.names():
            try:
                self.read(name)
            except DamagedError as problem:
                log.warning(
                    "%s/%s is damaged and will be counted again: %s",
                    self.folder,
                    name,
                    one_line(problem.__cause__ or problem),
                )
                self.folder.delete(name)
                damaged.append(name)
        return damaged

    def parts(self) -> Iterator[pa.Table]:
        """Yield the parts, one at a time."""
        for name in self.names():
            yield self.read(name)

    def blocks(self, selected: Selected) -> Iterator[pa.Table]:
        """Yield the parts of the selected images, one at a time, each block of draws once.

        A write that was broken off and repeated may have stored a block twice. UserError where the
        two differ.
        """
        seen, names = Seen(len(selected.indices)), self.names()
        for number, name in enumerate(names):
            table = self.read(name)
            again_R = seen.again(table, selected.positions(column(table, "index")))
            if again_R.any():
                self._check_same(table.filter(pa.array(again_R)), names[: number + 1])
                table = table.filter(pa.array(~again_R))
            yield table

    def _check_same(self, again: pa.Table, names: list[str]) -> None:
        """Raise UserError unless the rows, of the last of the parts, are as in all of them."""
        for name in names:
            row = unlike(again, self.read(name))
            if row is not None:
                found = again.slice(row, 1).to_pylist()[0]
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
            run = json.loads((table.schema.metadata or {}).get(RUN_KEY, b"{}")).get("run")
            if run == self.run_id:
                _check_sums(table)
        except MemoryError as problem:  # pyarrow's too, which is an ArrowException as well
            raise UserError(f"no memory to read {where}") from problem
        except (pa.ArrowException, OSError, ValueError) as problem:
            raise DamagedError(
                f"{where} is damaged ({one_line(problem)}): run `rsray certify` again with its "
                "--out to draw what it held"
            ) from problem
        if run != self.run_id:
            raise UserError(f"{where} holds counts of another run")
        return table

    def done(self, selected: Selected, draws: Draws, demand: Demand | None = None) -> Done:
        """Return what is stored of the selected images.

        With a demand that decides for each image, `wanted_N` says how many blocks it wants.
        UserError where the images have other labels now: it is other data that was counted.
        """
        demand = demand or Demand(draws, "fixed")
        num_images = len(selected.indices)
        done = Done.nothing(num_images, draws.num_blocks)
        hits_N = np.zeros(num_images)
        for table in self.blocks(selected):
            position = selected.positions(column(table, "index"))
            self._check_labels(table, selected.labels[position])
            block, stage = column(table, "block"), is_selection(table)
            done.selection_N[position[stage]] = True
            done.estimation_NT[position[~stage], block[~stage]] = True
            part = selection_counts(table, position, num_images, demand.counted)
            tops = part.top()
            done.selected_class_N[tops >= 0] = tops[tops >= 0]
            hits_N += part.of(tops)
        if not demand.decides_per_image:
            return done
        return replace(done, wanted_N=self._wanted(selected, done, hits_N, demand))

    def _check_labels(self, table: pa.Table, label_R: NDArray[np.int64]) -> None:
        stored_R = column(table, "label")
        for row in np.flatnonzero(stored_R != label_R)[:1]:
            raise UserError(
                f"{self.folder} holds image {table['index'][row].as_py()} with label "
                f"{stored_R[row]}, and the data set now says {label_R[row]}: give the data root "
                "that the run began with, or another --out"
            )

    def _wanted(
        self, selected: Selected, done: Done, hits_N: NDArray[np.float64], demand: Demand
    ) -> NDArray[np.int64]:
        images = zip(
            selected.labels.tolist(), done.selected_class_N.tolist(), hits_N.tolist(), strict=True
        )
        wanted_N = np.array([demand.blocks(*image) for image in images], dtype=np.int64)
        if not demand.at_radius:
            return wanted_N
        hits_NT = np.full(done.estimation_NT.shape, -1, dtype=np.int32)  # four bytes a block
        for table in self.parts():
            table = table.filter(pa.array(~is_selection(table)))
            position = selected.positions(column(table, "index"))
            top_R = done.selected_class_N[position]
            hits_NT[position, column(table, "block")] = hits_by_row(table, top_R)
        return np.minimum(wanted_N, demand.blocks_until_answered(hits_NT))


def _check_sums(table: pa.Table) -> None:
    """Raise ValueError unless every row's classes have a count each, which add up to its draws."""
    if table.column_names not in (COUNTS.names, SOFT_COUNTS.names):
        raise ValueError(f"unknown columns {', '.join(table.column_names)}")
    lists: Any = [table[name].combine_chunks() for name in ("classes", "counts")]
    lengths, lengths_of_counts = (np.diff(each.offsets.to_numpy()) for each in lists)
    counts = lists[1].flatten().to_numpy(zero_copy_only=False)
    sums = np.diff(np.concatenate(([0], np.cumsum(counts)))[lists[1].offsets.to_numpy()])
    if not np.array_equal(lengths, lengths_of_counts) or not np.array_equal(
        sums, column(table, "draws")
    ):
        raise ValueError("the counts do not add up to the draws")
