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
from rsray.core.counts import ClassCounts
from rsray.core.noise import Stage
from rsray.errors import UserError
from rsray.storage import Folder

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


class CountStore:
    """The parts of one run. Only the driver writes; `run_id` keeps other runs' parts out."""

    def __init__(self, cert: Folder, run_id: str) -> None:
        """Open CERT/counts, creating it."""
        self.folder = (cert / "counts").make()
        self.run_id = run_id

    def append(self, table: pa.Table) -> None:
        """Write one part; it exists whole or not at all."""
        columns = SOFT_COUNTS if "sums" in table.column_names else COUNTS
        metadata = {RUN_KEY: json.dumps({"run": self.run_id}).encode()}
        sink = pa.BufferOutputStream()
        pq.write_table(
            table.cast(columns).replace_schema_metadata(metadata),
            sink,
            compression="zstd",
            write_page_checksum=True,
        )
        name = f"part-{len(self.names()):06d}-{uuid.uuid4().hex[:8]}.parquet"
        self.folder.write(name, sink.getvalue().to_pybytes())

    def has_sums(self) -> bool:
        """Tell whether sums of soft probabilities are stored."""
        return any("sums" in table.column_names for table in itertools.islice(self.parts(), 1))

    def names(self) -> list[str]:
        """Return the names of the parts."""
        return self.folder.names(".parquet")

    def drop_damaged(self) -> list[str]:
        """Delete parts that cannot be read (cut off, or a bit flipped) and return their names.

        Their blocks are owed again. UserError if a part belongs to another run.
        """
        damaged = []
        for name in self.names():
            try:
                self._read(name)
            except UserError:
                raise
            except (pa.ArrowException, OSError, ValueError) as problem:
                log.warning(
                    "%s/%s is damaged and will be counted again: %s", self.folder, name, problem
                )
                self.folder.delete(name)
                damaged.append(name)
        return damaged

    def parts(self) -> Iterator[pa.Table]:
        """Yield the parts, one at a time."""
        for name in self.names():
            yield self._read(name)

    def _read(self, name: str) -> pa.Table:
        content = pa.BufferReader(self.folder.read(name))
        table = pq.read_table(content, page_checksum_verification=True)
        run = json.loads((table.schema.metadata or {}).get(RUN_KEY, b"{}")).get("run")
        if run != self.run_id:
            raise UserError(f"{self.folder}/{name} holds counts of another run")
        _check_sums(table)
        return table

    def done(self, selected: Selected, draws: Draws, demand: Demand | None = None) -> Done:
        """Return what is stored of the selected images; ValueError for a block stored twice.

        With a demand that decides for each image, `wanted_N` says how many blocks it wants.
        """
        demand = demand or Demand(draws, "fixed")
        num_images = len(selected.indices)
        done = Done.nothing(num_images, draws.num_blocks)
        hits_N = np.zeros(num_images)
        for table in self.parts():
            position = selected.positions(_numpy(table, "index"))
            block, stage = _numpy(table, "block"), _is_selection(table)
            self._mark(done.selection_N, position[stage])
            self._mark(done.estimation_NT, position[~stage], block[~stage])
            part = class_counts(
                table.filter(pa.array(stage)), num_images, selected, column=demand.counted
            )
            tops = part.top()
            done.selected_class_N[tops >= 0] = tops[tops >= 0]
            hits_N += part.of(tops)
        if not demand.decides_per_image:
            return done
        return replace(done, wanted_N=self._wanted(selected, done, hits_N, demand))

    def _wanted(
        self, selected: Selected, done: Done, hits_N: NDArray[np.float64], demand: Demand
    ) -> NDArray[np.int64]:
        images = zip(
            selected.labels.tolist(), done.selected_class_N.tolist(), hits_N.tolist(), strict=True
        )
        wanted_N = np.array([demand.blocks(*image) for image in images], dtype=np.int64)
        if not demand.at_radius:
            return wanted_N
        hits_NT = np.full(done.estimation_NT.shape, -1, dtype=np.int64)
        for table in self.parts():
            table = table.filter(pa.array(~_is_selection(table)))
            position = selected.positions(_numpy(table, "index"))
            hits_NT[position, _numpy(table, "block")] = _hits(
                table, done.selected_class_N[position]
            )
        return np.minimum(wanted_N, demand.blocks_until_answered(hits_NT))

    def _mark(self, seen: NDArray[np.bool_], *where: NDArray[np.int64]) -> None:
        keys = np.ravel_multi_index(where, seen.shape)
        if len(np.unique(keys)) < len(keys) or seen[where].any():
            raise ValueError(f"a block of draws is stored twice in {self.folder}")
        seen[where] = True

    def totals(self, selected: Selected, column: str = "counts") -> tuple[ClassCounts, ClassCounts]:
        """Return the selection and estimation counts of the selected images, summed over blocks.

        `column` may name the `sums` or `square_sums` of soft probabilities instead.
        """
        sums: dict[bool, ClassCounts | None] = {True: None, False: None}
        num_images = len(selected.indices)
        for table in self.parts():
            stage = _is_selection(table)
            for is_selection, chosen in ((True, stage), (False, ~stage)):
                rows = table.filter(pa.array(chosen))
                part = class_counts(rows, num_images, selected, column=column)
                sums[is_selection] = _add(sums[is_selection], part)
        empty = ClassCounts.gather(num_images, *(np.empty(0, dtype=np.int64),) * 3)
        return sums[True] or empty, sums[False] or empty


def _check_sums(table: pa.Table) -> None:
    """Raise ValueError unless every row's classes have a count each, which add up to its draws."""
    if table.column_names not in (COUNTS.names, SOFT_COUNTS.names):
        raise ValueError(f"unknown columns {', '.join(table.column_names)}")
    lists: Any = [table[name].combine_chunks() for name in ("classes", "counts")]
    lengths, lengths_of_counts = (np.diff(each.offsets.to_numpy()) for each in lists)
    counts = lists[1].flatten().to_numpy(zero_copy_only=False)
    sums = np.diff(np.concatenate(([0], np.cumsum(counts)))[lists[1].offsets.to_numpy()])
    if not np.array_equal(lengths, lengths_of_counts) or not np.array_equal(
        sums, _numpy(table, "draws")
    ):
        raise ValueError("the counts do not add up to the draws")


def class_counts(
    table: pa.Table, num_images: int, selected: Selected, *, column: str = "counts"
) -> ClassCounts:
    """Return the counts in rows of COUNTS (or sums of SOFT_COUNTS), summed by (image, class)."""
    lists: Any = [table[name].combine_chunks() for name in ("classes", column)]
    lengths = np.diff(lists[0].offsets.to_numpy()) if len(table) else []
    position = np.repeat(selected.positions(_numpy(table, "index")), lengths)
    classes, values = (each.flatten().to_numpy(zero_copy_only=False) for each in lists)
    kept = values.astype(np.int64) if column == "counts" else values.astype(np.float64)
    return ClassCounts.gather(num_images, position.astype(np.int64), classes.astype(np.int64), kept)


def _hits(table: pa.Table, class_R: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return each row's count of the class named for it."""
    rows = Selected(np.arange(len(table)), np.zeros(len(table), dtype=np.int64))
    numbered = table.set_column(0, "index", pa.array(rows.indices))
    return np.asarray(class_counts(numbered, len(table), rows).of(class_R), dtype=np.int64)


def _add(total: ClassCounts | None, part: ClassCounts) -> ClassCounts:
    if total is None:
        return part
    return ClassCounts.gather(
        part.num_images,
        np.concatenate([total.image_E, part.image_E]),
        np.concatenate([total.classes_E, part.classes_E]),
        np.concatenate([total.counts_E, part.counts_E]),
    )


def _numpy(table: pa.Table, column: str) -> NDArray[np.int64]:
    return table[column].to_numpy().astype(np.int64)


def _is_selection(table: pa.Table) -> NDArray[np.bool_]:
    return np.asarray(table["stage"].to_numpy(zero_copy_only=False) == "selection", dtype=bool)
