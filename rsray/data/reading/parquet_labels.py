"""The label column of Parquet files: class indices, or names that are numbered in their order."""

# Shapes: N rows.
from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa

from rsray.data._base import Labels
from rsray.data.reading.parquet_table import ParquetTable, opened
from rsray.errors import UserError
from rsray.storage import Place

MAX_CLASSES = 100_000  # a larger label is an identifier taken for a class


def find_classes(table: ParquetTable) -> tuple[int, tuple[str, ...] | None]:
    """Return the number of classes and, where the data names them, their names by label.

    For integers Hugging Face's metadata tell (then no label is read), else the largest label does;
    text labels are sorted. Raises UserError for a label that cannot be a class.
    """
    declared = _declared_names(table.files[0], table.label_column)
    if declared:
        return len(declared), declared
    uniques = [unique for file_values in _values(table) for unique in set(file_values)]
    if uniques and isinstance(uniques[0], str):
        names = tuple(sorted(set(uniques)))
        return len(names), names
    lowest, highest = min(uniques, default=0), max(uniques, default=0)
    if lowest < 0 or highest >= MAX_CLASSES:
        raise UserError(
            f"{table.files[0]}: column {table.label_column!r} has labels {lowest}..{highest}; "
            f"integer labels must be 0..K-1 with K at most {MAX_CLASSES}"
        )
    return int(highest) + 1, None


def read_labels(table: ParquetTable, class_names: tuple[str, ...] | None) -> Labels:
    """Return the class index of every row, int64 [N]; text is looked up in `class_names`."""
    labels = np.asarray([value for values in _values(table) for value in values])
    if labels.dtype.kind != "U":
        return labels.astype(np.int64)
    index = {name: number for number, name in enumerate(class_names or ())}
    try:
        return np.asarray([index[str(label)] for label in labels], np.int64)
    except KeyError as error:
        raise UserError(f"{table.files[0]}: label {error} is not a class of the data set") from None


def _values(table: ParquetTable) -> list[list[Any]]:
    """Return the labels, int or str, of every file."""
    pieces = table.column(table.label_column)
    return [
        _checked(piece, file, table.label_column)
        for piece, file in zip(pieces, table.files, strict=True)
    ]


def _checked(piece: pa.ChunkedArray[Any], file: Place, name: str) -> list[Any]:
    kind = piece.type.value_type if pa.types.is_dictionary(piece.type) else piece.type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not (text or pa.types.is_integer(kind)):
        raise UserError(f"{file}: column {name!r} is of type {kind}; must be integer or text")
    if piece.null_count:
        raise UserError(f"{file}: column {name!r} has {piece.null_count} rows without a label")
    return piece.to_pylist()


def _declared_names(file: Place, column: str) -> tuple[str, ...] | None:
    """Return the class names that Hugging Face's `datasets` wrote beside a column of integers."""
    with opened(file, None) as parquet:
        schema = parquet.schema_arrow
    metadata = schema.metadata or {}
    if not pa.types.is_integer(schema.field(column).type):
        return None
    try:
        feature = json.loads(metadata[b"huggingface"])["info"]["features"][column]
        return tuple(str(name) for name in feature["names"]) or None
    except (KeyError, TypeError, ValueError):
        return None
