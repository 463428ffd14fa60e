"""Any user's own Parquet files with an image column and a label column; Hugging Face's too."""

# Shapes: N images of the split, n images asked for, K classes.
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rsray.data._base import (
    OWN_PICTURES,
    DataNotFoundError,
    DatasetSpec,
    ImageSplit,
    Labels,
    Pixels,
)
from rsray.data.reading.decode import Geometry, read_header
from rsray.data.reading.parquet_labels import find_classes, read_labels
from rsray.data.reading.parquet_table import ParquetTable, opened
from rsray.data.reading.shard_files import SPLIT_NAMES, Shards, find_files, shards_of
from rsray.data.reading.tensor_column import encoded_pictures, is_tensor, tensor_shape
from rsray.data.splits import seeded_part
from rsray.errors import UserError
from rsray.storage import Place

IMAGE_COLUMNS, LABEL_COLUMNS, SPLIT_COLUMN = ("image", "img"), ("label", "labels"), "split"


@dataclass(frozen=True, kw_only=True)
class ParquetSplit(ImageSplit):
    """Rows of Parquet files, decoded when they are asked for.

    The rows are all of them; or, with `split_value`, those with this value in the column "split";
    or, with `portion`, the train or test part of the seeded, stratified split.
    """

    table: ParquetTable
    geometry: Geometry
    split_value: str | None = None
    portion: str | None = None

    @cached_property
    def _table_labels(self) -> Labels:
        return read_labels(self.table, self.class_names)

    @cached_property
    def _rows(self) -> Labels:
        if self.split_value is not None:
            return np.flatnonzero(_split_column(self.table) == self.split_value)
        if self.portion is not None:
            return seeded_part(self._table_labels, self.portion)
        return np.arange(self.table.num_rows)

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
    image_size: int | None = None,
) -> ParquetSplit:
    """Return a split of files that are divided into splits.

    What is not given is found: the classes in the files of all splits, so that a label means the
    same in each; the geometry in the first image of this split.
    """
    table = table_of(shards[split])
    if not table.num_rows:
        raise UserError(f"{table.files[0]}: no rows in the {split} files")
    if class_names is None:
        every_file = tuple(file for files in shards.values() for file in files)
        num_classes, class_names = find_classes(table_of(every_file))
    else:
        num_classes = len(class_names)
    geometry = geometry or first_geometry(table, image_size)
    return ParquetSplit(
        name=name,
        split=split,
        num_classes=num_classes,
        image_shape=geometry.shape,
        class_names=class_names,
        table=table,
        geometry=geometry,
    )


def open_parquet(split: str, root: Place, image_size: int | None) -> ImageSplit:
    """Return a split, told by the files' names, else by a column "split", else seeded 80/20.

    Raises DataNotFoundError when there is no Parquet file, or none of this split.
    """
    places = [root / "parquet", root]
    for place in places:
        files = tuple(find_files(place))
        shards = shards_of(files, place)
        if split in shards:
            return open_shards("parquet", split, shards, None, image_size=image_size)
        if files and not shards:
            return _open_undivided(split, files, image_size)
    raise DataNotFoundError(
        [f"{place}/{names[0]}*.parquet" for place in places for names in (SPLIT_NAMES[split],)]
    )


def table_of(files: tuple[Place, ...]) -> ParquetTable:
    """Return the table of these files; UserError when a column cannot be told."""
    columns = _column_names(files[0])
    return ParquetTable(
        files,
        _one_of(IMAGE_COLUMNS, columns, "image", files[0]),
        _one_of(LABEL_COLUMNS, columns, "label", files[0]),
    )


def first_geometry(table: ParquetTable, image_size: int | None) -> Geometry:
    """Return what images become: the size and the channels of the first, or `image_size`."""
    column, name = table.first_picture()
    if is_tensor(column.type):
        channels, height, width = tensor_shape(column, [name])
    else:
        header = read_header(encoded_pictures(column, [name])[0], name)
        channels, height, width = header.channels, header.height, header.width
    return Geometry.of(channels, height, width, image_size)


def _open_undivided(split: str, files: tuple[Place, ...], image_size: int | None) -> ParquetSplit:
    """Return a split of files whose names do not tell the split."""
    table = table_of(files)
    if not table.num_rows:
        raise UserError(f"{files[0]}: no rows")
    value = portion = None
    if SPLIT_COLUMN in _column_names(files[0]):
        value = _split_value(split, table)
    else:
        portion = split
    num_classes, class_names = find_classes(table)
    geometry = first_geometry(table, image_size)
    return ParquetSplit(
        name="parquet",
        split=split,
        num_classes=num_classes,
        image_shape=geometry.shape,
        class_names=class_names,
        table=table,
        geometry=geometry,
        split_value=value,
        portion=portion,
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
    for name in allowed:
        if name in columns:
            return name
    raise UserError(
        f"{file}: no {what} column; it must be named {' or '.join(allowed)}; "
        f"found {', '.join(columns)}"
    )


PARQUET = DatasetSpec(
    name="parquet",
    num_classes=None,
    image_shape=None,
    open=open_parquet,
    how_to_get="Parquet files named train* and test*, or with a column 'split', or neither",
    resizable=True,
    training=OWN_PICTURES,
)
