"""Rows of images and labels in Parquet files, read by row group."""

# Shapes: N rows of all files, n rows asked for, C channels, H height, W width.
from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rsray.data._base import Labels, Pixels, fields_alone
from rsray.data.reading.decode import Geometry, RowName, decode_all
from rsray.data.reading.tensor_column import Column, encoded_pictures, is_tensor, tensor_images
from rsray.errors import UserError
from rsray.storage import Place, one_line

Found = TypeVar("Found")
# Encoded row groups kept in memory for the next request
GROUPS_KEPT = 8
# On an object store, opening a file is waiting
FILES_AT_ONCE = 16
# Arrow's binary columns overflow when gigabytes are gathered at once
ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class ParquetTable:
    """Parquet files taken as one table; pickles as their addresses.

    Methods raise UserError, naming the file, when one is damaged or lacks a column.
    """

    files: tuple[Place, ...]
    image_column: str
    label_column: str

    __getstate__ = fields_alone

    @cached_property
    def num_rows(self) -> int:
        """The number of rows N."""
        return int(self._first_rows[-1])

    def column(self, name: str) -> list[Column]:
        """Return one column, a piece per file."""
        return self._of_each_file(lambda parquet: parquet.read(columns=[name]).column(name))

    def _of_each_file(self, read: Callable[[pq.ParquetFile], Found]) -> list[Found]:
        def found(file: Place, footer: pq.FileMetaData) -> Found:
            with opened(file, footer) as parquet:
                return read(parquet)

        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            return list(pool.map(found, self.files, self._footers))

    def images(self, rows: Labels, to: Geometry) -> Pixels:
        """Return the images of these rows, uint8 [n, C, H, W]."""
        out = np.empty((len(rows), *to.shape), np.uint8)
        group_of = np.searchsorted(self._first_rows, rows, side="right") - 1
        # Every row group is read once
        order = np.lexsort((rows, group_of))
        for start in range(0, len(rows), ROWS_AT_ONCE):
            block = order[start : start + ROWS_AT_ONCE]
            for group in np.unique(group_of[block]):
                places = block[group_of[block] == group]
                out[places] = self._group_images(int(group), rows[places], to)
        return out

    def picture(self, row: int) -> tuple[Column, RowName]:
        """Return one row of the image column, and its name for messages."""
        group = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        at = row - int(self._first_rows[group])
        return self._group(group).slice(at, 1), RowName(self.name_of, row)

    def paths(self) -> list[str | None]:
        """Return what the image column says each picture was called [N], None where it does not."""

        def paths_in(parquet: pq.ParquetFile) -> list[str | None]:
            kind = parquet.schema_arrow.field(self.image_column).type
            if not pa.types.is_struct(kind) or kind.get_field_index("path") < 0:
                return [None] * parquet.metadata.num_rows
            column = parquet.read(columns=[f"{self.image_column}.path"])
            paths: list[str | None] = pc.struct_field(column.column(0), "path").to_pylist()
            return paths

        return [path for paths in self._of_each_file(paths_in) for path in paths]

    def _group_images(self, group: int, rows: Labels, to: Geometry) -> Pixels:
        local = rows - self._first_rows[group]
        column = self._group(group).take(pa.array(local))
        names = [RowName(self.name_of, int(row)) for row in rows]
        if is_tensor(column.type):
            return tensor_images(column, to, names)
        pictures = encoded_pictures(column, names)
        return decode_all(lambda i: (pictures[i], names[i]), len(pictures), to)

    def name_of(self, row: int) -> str:
        """Return a row's file and its number in the file, for messages."""
        file = int(np.searchsorted(self._file_ends, row, side="right"))
        start = int(self._file_ends[file - 1]) if file else 0
        return f"{self.files[file]} row {row - start}"

    @cached_property
    def _file_ends(self) -> Labels:
        """The first row after each file."""
        return np.cumsum([footer.num_rows for footer in self._footers], dtype=np.int64)

    @cached_property
    def _footers(self) -> tuple[pq.FileMetaData, ...]:
        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            return tuple(pool.map(read_footer, self.files))

    @cached_property
    def _groups(self) -> list[tuple[int, int]]:
        """The row groups of all files: (file, row group of the file)."""
        return [
            (i, group)
            for i, footer in enumerate(self._footers)
            for group in range(footer.num_row_groups)
            if footer.row_group(group).num_rows
        ]

    @cached_property
    def _first_rows(self) -> Labels:
        """The first row of every row group, and N at the end."""
        sizes = [self._footers[i].row_group(group).num_rows for i, group in self._groups]
        return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)

    @cached_property
    def _group(self) -> Callable[[int], Column]:
        return lru_cache(maxsize=GROUPS_KEPT)(self._read_group)

    def _read_group(self, group: int) -> Column:
        file, number = self._groups[group]
        with opened(self.files[file], self._footers[file]) as parquet:
            table = parquet.read_row_group(number, columns=[self.image_column])
            return table.column(self.image_column)


def read_footer(file: Place) -> pq.FileMetaData:
    """Return the metadata of a Parquet file; raises UserError when it is damaged."""
    with opened(file, None) as parquet:
        return parquet.metadata


@contextmanager
def opened(file: Place, footer: pq.FileMetaData | None) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file; what Arrow finds wrong within becomes UserError."""
    try:
        with file.open() as stream:
            yield pq.ParquetFile(stream, metadata=footer)
    except KeyError as error:
        raise UserError(f"{file}: has no column {error}") from error
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: damaged or not Parquet: {one_line(error)}") from error
