"""WebDataset: tar files of pictures, each beside its class; any user's own, ImageNet's too."""

# Shapes: N images of the split, n images asked for, K classes.
from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsray.data._base import (
    AS_IT_IS,
    DataNotFoundError,
    DatasetSpec,
    ImageSplit,
    Indices,
    Labels,
    Pixels,
    ReadOptions,
    fields_alone,
)
from rsray.data.reading.class_folders import LISTING_THREADS
from rsray.data.reading.class_names import in_order
from rsray.data.reading.decode import Geometry, Header, RowName, decode_all, read_header
from rsray.data.reading.parquet_labels import MAX_CLASSES, Classes, numbered_classes, numbers_of
from rsray.data.reading.shard_files import (
    SPLIT_NAMES,
    TAR_FILES,
    Shards,
    check_sets,
    find_files,
    shards_of,
)
from rsray.data.reading.tar_index import read_index
from rsray.data.splits import named_part, normal, numbered
from rsray.errors import UserError
from rsray.storage import Place, one_line

FILES_OPEN = 64
# A name per line, in the order of the labels
NAME_FILES = ("classnames.txt", "classes.txt")
# Of a set that begins with a grey picture so many others are looked at, for a coloured one.
LOOKED_AT = 64


@dataclass(frozen=True)
class TarTable:
    """The samples of some tar files, one after the other; pickles as their addresses."""

    files: tuple[Place, ...]
    # Of the samples' .json
    label_field: str | None = None

    __getstate__ = fields_alone

    @cached_property
    def index(self) -> pa.Table:
        """The samples of all files, a table of INDEX [N]."""
        return pa.concat_tables(self._tables)

    @cached_property
    def _tables(self) -> list[pa.Table]:
        with ThreadPoolExecutor(LISTING_THREADS) as pool:
            return list(pool.map(lambda file: read_index(file, self.label_field), self.files))

    @cached_property
    def _places(self) -> tuple[Labels, Labels, Labels]:
        """The file [N], offset [N] and size [N] of every picture."""
        rows = [len(table) for table in self._tables]
        offsets, sizes = (self.index[name].to_numpy() for name in ("offset", "size"))
        return np.repeat(np.arange(len(rows)), rows), offsets, sizes

    @cached_property
    def _open(self) -> Callable[[int], pa.NativeFile]:
        return lru_cache(maxsize=FILES_OPEN)(lambda file: self.files[file].open())

    def picture(self, row: int) -> bytes:
        """Return the encoded picture of a sample, reading nothing else; UserError if it is cut."""
        file, offset, size = (int(each[row]) for each in self._places)
        try:
            # The stubs know no read_at
            stream: Any = self._open(file)
            content: bytes = stream.read_at(size, offset)
        except OSError as error:
            raise UserError(f"{self.files[file]}: cannot be read: {one_line(error)}") from error
        if len(content) != size:
            raise UserError(f"{self.name_of(row)}: the file ends within it")
        return content

    def name_of(self, row: int) -> str:
        """Return a sample's file and key, for messages."""
        return f"{self.files[self._places[0][row]]} sample {self.index['key'][row].as_py()}"


@dataclass(frozen=True, kw_only=True)
class TarSplit(ImageSplit):
    """Samples of tar files, decoded when they are asked for.

    The samples are all of them or, with `portion`, the train or test part that their keys decide.
    """

    table: TarTable
    geometry: Geometry
    first_label: int = 0
    portion: str | None = None

    @cached_property
    def _table_labels(self) -> Labels:
        return _numbers(self.table, self.class_names, self.first_label)

    @cached_property
    def _keys(self) -> list[str]:
        """The key of every sample, with a number where shards use one again."""
        return numbered(normal(str(key)) for key in self.table.index["key"].to_pylist())

    @cached_property
    def image_names(self) -> tuple[str, ...]:
        """The key of every sample of the split [N]."""
        return tuple(self._keys[row] for row in self._rows)

    def stored(self, indices: Indices) -> list[bytes]:
        """Return the encoded pictures."""
        return [self.table.picture(int(self._rows[index])) for index in indices]

    @cached_property
    def _rows(self) -> Labels:
        if self.portion is None:
            return np.arange(len(self._table_labels))
        return named_part(self._keys, self._table_labels, self.portion)

    def _read_labels(self) -> Labels:
        return self._table_labels[self._rows]

    def _read_images(self, indices: Labels) -> Pixels:
        rows = [int(row) for row in self._rows[indices]]
        return decode_all(
            lambda i: (self.table.picture(rows[i]), RowName(self.table.name_of, rows[i])),
            len(rows),
            self.geometry,
            waits=not self.table.files[0].is_local,
        )


def open_webdataset(split: str, root: Place, options: ReadOptions) -> ImageSplit:
    """Return a split, told by the files' names, else by the samples' keys (a fifth is test).

    Raises DataNotFoundError when there is no tar file, or none of this split.
    """
    places = [root / "webdataset", root]
    for place in places:
        files = tuple(find_files(place, suffix=TAR_FILES))
        shards = shards_of(files, place)
        if split in shards:
            return open_tar_shards("webdataset", split, shards, None, place, options)
        if files and not shards:
            undivided = {split: files}
            return open_tar_shards("webdataset", split, undivided, None, place, options, split)
    raise DataNotFoundError([f"{place}/{SPLIT_NAMES[split][0]}*.tar" for place in places])


def open_tar_shards(
    name: str,
    split: str,
    shards: Shards,
    geometry: Geometry | None,
    place: Place,
    options: ReadOptions = AS_IT_IS,
    portion: str | None = None,
) -> TarSplit:
    """Return a split of files that are divided into splits.

    The classes are those that a file of names in `place` tells, else found in the files of all
    splits, so that a label means the same in each; the geometry in pictures of all splits.
    """
    check_sets(shards[split])
    table = TarTable(shards[split], options.label_column)
    every_file = tuple(file for files in shards.values() for file in files)
    whole = TarTable(every_file, options.label_column)
    classes = _classes(whole, place)
    geometry = geometry or Geometry.of(_header(table, 0), options, _spread_headers(whole))
    return TarSplit(
        name=name,
        split=split,
        num_classes=classes.number,
        image_shape=geometry.shape,
        class_names=classes.names,
        table=table,
        geometry=geometry,
        first_label=classes.first,
        portion=portion,
    )


def _classes(table: TarTable, place: Place) -> Classes:
    listed = _listed_names(place)
    if listed:
        return Classes(len(listed), listed)
    pairs = table.index.group_by(["label", "class_name"]).aggregate([]).to_pylist()
    if not _are_numbers(table):
        names = in_order({pair["label"] for pair in pairs}, str(table.files[0]))
        if number := next((name for name in names if name.isdecimal()), None):
            raise UserError(
                f"{table.files[0]}: some labels are numbers ({number}) and others are names "
                f"({names[-1]}): which number is which name?"
            )
        return Classes(len(names), names)
    highest = max(int(pair["label"]) for pair in pairs)
    if highest >= MAX_CLASSES:
        raise UserError(f"{table.files[0]}: label {highest}; at most {MAX_CLASSES} classes")
    classes = numbered_classes({int(pair["label"]) for pair in pairs}, str(table.files[0]))
    named = {int(pair["label"]): pair["class_name"] for pair in pairs if pair["class_name"]}
    if len(named) < len({(int(p["label"]), p["class_name"]) for p in pairs if p["class_name"]}):
        raise UserError(f"{table.files[0]}: the samples of one label have several class names")
    if not named:
        return classes
    labels = range(classes.first, classes.first + classes.number)
    names = tuple(normal(named.get(label, str(label))) for label in labels)
    return Classes(classes.number, names, classes.first)


def _listed_names(place: Place) -> tuple[str, ...]:
    for name in NAME_FILES:
        if place.is_dir() and (place / name).is_file():
            lines = (place / name).read_bytes().decode(errors="replace").splitlines()
            return tuple(normal(line.strip()) for line in lines if line.strip())
    return ()


def _numbers(table: TarTable, class_names: tuple[str, ...] | None, first: int) -> Labels:
    """Return the class index of every sample [N]; text is looked up in `class_names`."""
    column = table.index["label"]
    if _are_numbers(table):
        return np.asarray(column.cast(pa.int64()).to_numpy(), np.int64) - first
    return numbers_of(column.to_pylist(), class_names or (), table.files[0])


def _are_numbers(table: TarTable) -> bool:
    return bool(pc.all(pc.match_substring_regex(table.index["label"], "^[0-9]{1,9}$")).as_py())


def _spread_headers(table: TarTable) -> Iterator[Header]:
    """Yield the headers of pictures all over a table: coloured ones would be among them."""
    for row in np.unique(np.linspace(0, len(table.index) - 1, LOOKED_AT).astype(int)):
        yield _header(table, int(row))


def _header(table: TarTable, row: int) -> Header:
    return read_header(table.picture(row), RowName(table.name_of, row))


WEBDATASET = DatasetSpec(
    name="webdataset",
    num_classes=None,
    image_shape=None,
    open=open_webdataset,
    how_to_get="WebDataset tar files named *train* and *test* (or val), or neither",
    has_label_column=True,
    resizable=True,
)
