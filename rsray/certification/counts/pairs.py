"""Blocks of counts and the same blocks drawn again, side by side."""

# Shapes: R blocks, K classes.
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rsray.certification.checks.differences import Difference
from rsray.certification.counts.tables import block_keys, class_entries, column, rows_where
from rsray.core.homogeneity import combined_p_value, counts_p_values, sums_p_values

Ints = NDArray[np.int64]
SUMS = ("sums", "square_sums")


def in_order(table: pa.Table, keys: Ints) -> pa.Table:
    """Return the rows of these blocks in their order."""
    table = rows_where(table, np.isin(block_keys(table), keys))
    return table.take(np.argsort(block_keys(table), kind="stable"))


def unequal_blocks(stored: pa.Table, again: pa.Table) -> Iterator[Difference]:
    """Yield each block whose counts are not as they were drawn again."""
    names = [name for name in ("counts", *SUMS) if name in stored.column_names]
    for mine, right in zip(stored.to_pylist(), again.to_pylist(), strict=True):
        what = f"in {mine['stage']} block {mine['block']} of image {mine['index']}"
        for name in names:
            pairs = [dict(zip(row["classes"], row[name], strict=True)) for row in (mine, right)]
            if pairs[0] != pairs[1]:
                yield Difference("counts", f"{name} {what}", *pairs)
                break


def same_network_p_value(stored: pa.Table, again: pa.Table) -> float:
    """Return how likely blocks so unlike are to come from one network, whatever noise each had."""
    num_classes = 1 + max(int(class_entries(each).class_E.max()) for each in (stored, again))
    first, second = _dense(stored, "counts", num_classes), _dense(again, "counts", num_classes)
    p_values = [counts_p_values(first.astype(np.int64), second.astype(np.int64))]
    draws_R = column(stored, "draws")
    for name in (name for name in SUMS if name in stored.column_names):
        mine, right = (_dense(each, name, num_classes) for each in (stored, again))
        p_values.append(sums_p_values(mine, right, draws_R))
    # Of several statistics of a block the smallest p-value, with Bonferroni's correction.
    return combined_p_value(np.minimum(1.0, len(p_values) * np.min(p_values, axis=0)))


def _dense(table: pa.Table, name: str, num_classes: int) -> NDArray[np.float64]:
    """Return a column of lists by class [R, K]."""
    entries = class_entries(table)
    dense_RK = np.zeros((len(table), num_classes))
    dense_RK[entries.row_E, entries.class_E] = entries.values[name]
    return dense_RK
