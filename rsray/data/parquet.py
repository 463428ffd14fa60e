"""Any user's own Parquet files with an image column and a label column; Hugging Face's too."""

# Shapes: N images of the split, n images asked for, K classes.
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rsray.data._base import (
    AS_IT_IS,
    DataNotFoundError,
    DatasetSpec,
    ImageSplit,
    Indices,
    Labels,
    Pixels,
    ReadOptions,
)
from rsray.data.reading.decode import Geometry, Header, read_header
from rsray.data.reading.parquet_labels import Classes, declared_names, find_classes, read_labels
from rsray.data.reading.parquet_table import ParquetTable, opened
from rsray.data.reading.shard_files import (
    SPLIT_NAMES,
    Shards,
    check_sets,
    find_files,
    shards_of,
)
from rsray.data.reading.tensor_column import encoded_pictures, is_tensor, tensor_shape
from rsray.data.splits import named_part, normal, numbered
from rsray.errors import UserError
from rsray.storage import Place

IMAGE_COLUMNS, LABEL_COLUMNS, SPLIT_COLUMN = ("image", "img"), ("label", "labels"), "split"
# Of a set that begins with a grey picture so many others are looked at, for a coloured one: a few
# in a row at each of a few places, since reading one reads its neighbours too.
PLACES, NEIGHBOURS = 16, 16


@dataclass(frozen=True, kw_only=True)
class ParquetSplit(ImageSplit):
    """Rows of Parquet files, decoded when they are asked for.

    The rows are all of them; or, with `split_value`, those with this value in the column "split";
    or, with `portion`, the train or test part that the names of the rows decide.
    """

    table: ParquetTable
    geometry: Geometry
    first_label: int = 0
    split_value: str | None = None
    portion: str | None = None

    @cached_property
    def _table_labels(self) -> Labels:
        return read_labels(self.table, self.class_names, self.first_label)

    @cached_property
    def _rows(self) -> Labels:
        if self.split_value is not None:
            return np.flatnonzero(_split_column(self.table) == self.split_value)
        if self.portion is not None:
            return named_part(self._table_names, self._table_labels, self.portion)
        return np.arange(self.table.num_rows)

    @cached_property
    def _table_names(self) -> list[str]:
        """Class and path of every row; its file and number where the table has no paths.

        The path is what it was below its class folder: a folder and the shards made of it have
        the same names.
        """
        class_of = dict(enumerate(self.classes))
        return numbered(
            normal(f"{class_of.get(int(self._table_labels[row]))}/{path}")
            if path
            else self.table.name_of(row).rpartition("/")[2]
            for row, path in enumerate(self.table.paths())
        )

    @cached_property
    def image_names(self) -> tuple[str, ...]:
        """The name of every row of the split [N]."""
        return tuple(self._table_names[row] for row in self._rows)

    def stored(self, indices: Indices) -> list[bytes]:
        """Return the encoded pictures, or the arrays' bytes."""
        cells = [self.table.picture(int(self._rows[index])) for index in indices]
        if cells and is_tensor(cells[0][0].type):
            return super().stored(indices)
        return [encoded_pictures(column, [name])[0] for column, name in cells]

    def _read_labels(self) -> Labels:
        return self._table_labels[self._rows]

    def _read_images(self, indices: Labels) -> Pixels:
        return self.table.images(self._rows[indices], self.geometry)


def open_shards(
    name: str,
    split: str,
    shards: Shards,
    geometry: Geometry | None,
    class_names: tuple[str, ...] | None = None,
    options: ReadOptions = AS_IT_IS,
) -> ParquetSplit:
    """Return a split of files that are divided into splits.

    What is not given is found: the classes in the files of all splits, so that a label means the
    same in each; the geometry in images of all splits.
    """
    check_sets(shards[split])
    table = table_of(shards[split], options.label_column)
    if not table.num_rows:
        raise UserError(f"{table.files[0]}: no rows in the {split} files")
    whole = table_of(tuple(file for files in shards.values() for file in files), table.label_column)
    # Of the other splits the first file speaks: there may be hundreds, far away.
    speaking = tuple(
        file for part, files in shards.items() for file in (files if part == split else files[:1])
    )
    declared = declared_names(table_of(speaking, table.label_column))
    if class_names is None:
        classes = find_classes(whole, declared)
    else:
        _check_order(table, declared, class_names)
        classes = Classes(len(class_names), class_names)
    geometry = geometry or Geometry.of(_header(table, 0), options, _spread_headers(whole))
    return _split_of(name, split, table, classes, geometry)


def open_parquet(split: str, root: Place, options: ReadOptions) -> ImageSplit:
    """Return a split, told by the files' names, else by a column "split", else by the rows' names.

    Raises DataNotFoundError when there is no Parquet file, or none of this split.
    """
    places = [root / "parquet", root]
    for place in places:
        files = tuple(find_files(place))
        shards = shards_of(files, place)
        if split in shards:
            return open_shards("parquet", split, shards, None, options=options)
        if files and not shards:
            return _open_undivided(split, files, options)
    raise DataNotFoundError(
        [f"{place}/*{names[0]}*.parquet" for place in places for names in (SPLIT_NAMES[split],)]
    )


def table_of(files: tuple[Place, ...], label_column: str | None = None) -> ParquetTable:
    """Return the table of these files; UserError when a column cannot be told."""
    columns = _column_names(files[0])
    labels = (label_column,) if label_column else LABEL_COLUMNS
    return ParquetTable(
        files,
        _one_of(IMAGE_COLUMNS, columns, "image", files[0]),
        _one_of(labels, columns, "label", files[0]),
    )


def _check_order(
    table: ParquetTable, declared: tuple[str, ...] | None, class_names: tuple[str, ...]
) -> None:
    """Raise UserError where files name their classes, and not as the data set is known to."""
    if declared is None or declared == class_names:
        return
    moved = [
        name for i, name in enumerate(declared) if name in class_names[:i] + class_names[i + 1 :]
    ]
    if moved or not set(declared) & set(class_names):
        raise UserError(
            f"{table.files[0]}: its classes are {', '.join(declared[:12])}; expected, in this "
            f"order, {', '.join(class_names)}"
        )


def _spread_headers(table: ParquetTable) -> Iterator[Header]:
    """Yield the headers of pictures all over a table: coloured ones would be among them."""
    starts = np.linspace(0, table.num_rows - 1, PLACES).astype(int)[:, None]
    for row in np.unique((starts + np.arange(NEIGHBOURS)).clip(max=table.num_rows - 1)):
        yield _header(table, int(row))


def _header(table: ParquetTable, row: int) -> Header:
    column, name = table.picture(row)
    if is_tensor(column.type):
        return Header(*tensor_shape(column, [name]))
    return read_header(encoded_pictures(column, [name])[0], name)


def _open_undivided(split: str, files: tuple[Place, ...], options: ReadOptions) -> ParquetSplit:
    """Return a split of files whose names do not tell the split."""
    check_sets(files)
    table = table_of(files, options.label_column)
    if not table.num_rows:
        raise UserError(f"{files[0]}: no rows")
    is_told = SPLIT_COLUMN in _column_names(files[0])
    return _split_of(
        "parquet",
        split,
        table,
        find_classes(table, declared_names(table)),
        Geometry.of(_header(table, 0), options, _spread_headers(table)),
        split_value=_split_value(split, table) if is_told else None,
        portion=None if is_told else split,
    )


def _split_of(
    name: str,
    split: str,
    table: ParquetTable,
    classes: Classes,
    geometry: Geometry,
    **part: str | None,
) -> ParquetSplit:
    return ParquetSplit(
        name=name,
        split=split,
        num_classes=classes.number,
        image_shape=geometry.shape,
        class_names=classes.names,
        table=table,
        geometry=geometry,
        first_label=classes.first,
        **part,
    )


def _split_value(split: str, table: ParquetTable) -> str:
    """Return the value of the column "split" that stands for this split."""
    values = sorted(set(_split_column(table).tolist()))
    for name in SPLIT_NAMES[split]:
        if name in values:
            return name
    raise UserError(
        f"{table.files[0]}: no row has {' or '.join(map(repr, SPLIT_NAMES[split]))} in its column "
        f"'split'; it has {', '.join(map(str, values[:5]))}"
    )


def _split_column(table: ParquetTable) -> np.ndarray[tuple[int], np.dtype[np.str_]]:
    pieces = table.column(SPLIT_COLUMN)
    return np.asarray([str(value) for piece in pieces for value in piece.to_pylist()])


def _column_names(file: Place) -> list[str]:
    with opened(file, None) as parquet:
        return list(parquet.schema_arrow.names)


def _one_of(allowed: tuple[str, ...], columns: list[str], what: str, file: Place) -> str:
    choose = "; or say which one: --label-column" if what == "label" else ""
    present = [name for name in allowed if name in columns]
    if len(present) > 1:
        raise UserError(f"{file}: which is the {what} column, {' or '.join(present)}?{choose}")
    if present and columns.count(present[0]) > 1:
        raise UserError(f"{file}: two columns are called {present[0]}: rename one")
    if present:
        return present[0]
    raise UserError(
        f"{file}: no {what} column; it must be named {' or '.join(allowed)}; "
        f"found {', '.join(columns)}{choose}"
    )


PARQUET = DatasetSpec(
    name="parquet",
    num_classes=None,
    image_shape=None,
    open=open_parquet,
    how_to_get="Parquet files named *train* and *test*, or with a column 'split', or neither",
    has_label_column=True,
    resizable=True,
)
