"""The label column of Parquet files: class indices, or names that are numbered in their order."""

# Shapes: N rows.
from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from rsray.data._base import Labels
from rsray.data.reading.class_names import in_order
from rsray.data.reading.parquet_table import ParquetTable, opened
from rsray.data.reading.tensor_column import Column
from rsray.data.splits import normal
from rsray.errors import UserError
from rsray.storage import Place
from rsray.storage.records import from_json

log = logging.getLogger(__name__)
# A larger label is an identifier taken for a class
MAX_CLASSES = 100_000


@dataclass(frozen=True)
class Classes:
    """The classes of a table: their number K, their names by label, and the number of the first."""

    number: int
    # None: the data do not name them
    names: tuple[str, ...] | None = None
    # 1 where the data count their labels from 1
    first: int = 0


def find_classes(table: ParquetTable, declared: tuple[str, ...] | None) -> Classes:
    """Return the classes of a table.

    Those that its files declare (then no label is read), else the labels that occur; text labels
    are sorted. Raises UserError for a label that cannot be a class.
    """
    if declared:
        return Classes(len(declared), declared)
    uniques = {unique for file_values in _values(table) for unique in set(file_values)}
    kinds = {type(unique) for unique in uniques}
    if len(kinds) > 1:
        raise UserError(
            f"{table.files[0]}: column {table.label_column!r} is text in some files and numbers "
            "in others: which number is which name?"
        )
    if kinds == {str}:
        names = in_order(uniques, str(table.files[0]))
        return Classes(len(names), names)
    lowest, highest = min(uniques, default=0), max(uniques, default=0)
    if lowest < 0 or highest >= MAX_CLASSES:
        raise UserError(
            f"{table.files[0]}: column {table.label_column!r} has labels {lowest}..{highest}; "
            f"integer labels must be 0..K-1 with K at most {MAX_CLASSES}"
        )
    return numbered_classes(uniques, f"{table.files[0]}: column {table.label_column!r}")


def numbered_classes(labels: set[int], where: str) -> Classes:
    """Return the classes of labels that are numbers, named by them where they count from 1.

    Raises UserError where they seem to count from 1 with gaps: no one can tell what 0 would be.
    """
    lowest, highest = min(labels, default=0), max(labels, default=0)
    if lowest > 1 or 2 * len(labels) <= highest:
        raise UserError(
            f"{where} has {len(labels)} different labels in {lowest}..{highest}: these are "
            "identifiers, not classes 0..K-1; write labels from 0, or class names as text"
        )
    if lowest == 0 or highest == 1:
        return Classes(highest + 1)
    if len(labels) < highest:
        missing = min(set(range(1, highest)) - labels)
        raise UserError(
            f"{where} has labels 1..{highest} without 0 and {missing}: is 1 the first class or the "
            "second? Write labels from 0, or class names as text"
        )
    log.warning("%s counts its labels from 1: class k is label k + 1", where)
    return Classes(highest, tuple(map(str, range(1, highest + 1))), first=1)


def read_labels(table: ParquetTable, class_names: tuple[str, ...] | None, first: int = 0) -> Labels:
    """Return the class index of every row, int64 [N]; text is looked up in `class_names`."""
    labels = np.asarray([value for values in _values(table) for value in values])
    if labels.dtype.kind != "U":
        return labels.astype(np.int64) - first
    return numbers_of(labels, class_names or (), table.files[0])


def numbers_of(labels: Iterable[Any], class_names: Sequence[str], where: Place) -> Labels:
    """Return the index of each label in the names [N]; UserError for one that is not there."""
    index = {normal(name): number for number, name in enumerate(class_names)}
    try:
        return np.asarray([index[normal(str(label))] for label in labels], np.int64)
    except KeyError as error:
        raise UserError(f"{where}: label {error} is not a class of the data set") from None


def _values(table: ParquetTable) -> list[list[Any]]:
    """Return the labels, int or str, of every file."""
    pieces = table.column(table.label_column)
    return [
        _checked(piece, file, table.label_column)
        for piece, file in zip(pieces, table.files, strict=True)
    ]


def _checked(piece: Column, file: Place, name: str) -> list[Any]:
    kind = piece.type.value_type if pa.types.is_dictionary(piece.type) else piece.type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not (text or pa.types.is_integer(kind)):
        raise UserError(f"{file}: column {name!r} is of type {kind}; must be integer or text")
    if piece.null_count:
        raise UserError(f"{file}: column {name!r} has {piece.null_count} rows without a label")
    return piece.to_pylist()


def declared_names(table: ParquetTable) -> tuple[str, ...] | None:
    """Return the class names that Hugging Face's `datasets` wrote beside a column of integers.

    Raises UserError where two files of the table number the classes otherwise.
    """
    found: dict[tuple[str, ...], Place] = {}
    for file in table.files:
        if names := _names_in(file, table.label_column):
            found.setdefault(names, file)
    if len(found) > 1:
        (one, first), (other, second), *_ = found.items()
        at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
        label = min(len(one), len(other)) if at is None else at
        raise UserError(
            f"{first} and {second} number their classes otherwise: label {label} is "
            f"{_at(one, label)} in the one and {_at(other, label)} in the other"
        )
    return next(iter(found), None)


def _at(names: tuple[str, ...], label: int) -> str:
    return repr(names[label]) if label < len(names) else "no class"


def _names_in(file: Place, column: str) -> tuple[str, ...] | None:
    with opened(file, None) as parquet:
        schema = parquet.schema_arrow
    metadata = schema.metadata or {}
    if schema.names.count(column) != 1 or not pa.types.is_integer(schema.field(column).type):
        return None
    try:
        feature = from_json(metadata[b"huggingface"], str(file))["info"]["features"][column]
        return tuple(normal(str(name)) for name in feature["names"]) or None
    except (KeyError, TypeError, ValueError):
        return None
