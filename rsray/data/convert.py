"""Pictures in class folders into Parquet shards, once: few large objects in place of a million.

The shards are those of Hugging Face's `datasets`: a column `image` of struct<bytes, path> that
holds every file as it was, byte for byte, and `label`, with the class names in the schema. Rows
are in the order of the folder's own reader, so image i is the same image in both.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rsray.data._base import Labels
from rsray.data.imagefolder import check_levels, split_folders
from rsray.data.reading.class_folders import (
    LISTING_THREADS,
    class_folders,
    classes_with_pictures,
)
from rsray.data.reading.decode import read_header
from rsray.data.reading.folder import fingerprint, list_images
from rsray.data.reading.shard_files import SPLIT_NAMES
from rsray.errors import UserError
from rsray.storage import Place
from rsray.storage.records import from_json

log = logging.getLogger(__name__)
RECORD = "conversion.json"
# 200 MB of ImageNet: held in memory while it is made
SHARD_IMAGES = 2000
# Of pictures in a row group, the least that a reader of one picture reads
GROUP_BYTES = 2**20
# What the shards of a split folder are called, so that every reader knows the split.
SHARD_PREFIXES = {
    folder: "validation" if folder.startswith("val") else split
    for split, folders in SPLIT_NAMES.items()
    for folder in folders
}
UNDIVIDED = "data"
OnProgress = Callable[["Converted"], None]


@dataclass(frozen=True)
class Converted:
    """How far a conversion is."""

    images: int
    total: int
    shards: int
    total_shards: int
    # Written by this start
    bytes: int


@dataclass(frozen=True)
class Part:
    """The pictures of one split, in order, and what their shards are called."""

    prefix: str
    folder: Place
    # Below the folder
    paths: list[str]
    # [N]
    labels: Labels
    shard_images: int

    @property
    def num_shards(self) -> int:
        """The number of shards."""
        return math.ceil(len(self.paths) / self.shard_images)

    def shards(self) -> Iterator[tuple[str, range]]:
        """Yield the name and the rows of each shard."""
        for number in range(self.num_shards):
            first = number * self.shard_images
            last = min(first + self.shard_images, len(self.paths))
            name = f"{self.prefix}-{number:05d}-of-{self.num_shards:05d}.parquet"
            yield name, range(first, last)


def convert(
    source: Place,
    out: Place,
    *,
    shard_images: int = SHARD_IMAGES,
    on_progress: OnProgress = lambda done: None,
) -> Converted:
    """Write <source>/[train|test|val/]<class>/* as Parquet shards in `out`; returns what is there.

    A shard that exists is complete and is not written again. Raises UserError when there are no
    class folders, a picture cannot be read, or `out` holds something else.
    """
    if shard_images < 1:
        raise UserError(f"shard size {shard_images}: must be at least 1 image")
    classes, parts = find_parts(source, shard_images)
    if out.is_file():
        raise UserError(f"{out} is a file: --out needs a folder")
    with out.make().locked():
        _claim(out, source, classes, parts, shard_images)
        return _write_missing(out, classes, parts, on_progress)


def find_parts(source: Place, shard_images: int) -> tuple[tuple[str, ...], list[Part]]:
    """Return the class names and the parts that become shards; UserError if there are none."""
    if not source.is_dir():
        raise UserError(f"{source} is no folder")
    folders = split_folders(source, {name: (name,) for name in SHARD_PREFIXES})
    _refuse_two_of_a_split(source, list(folders))
    is_divided = bool(folders)
    folders = folders or {UNDIVIDED: source}
    classes = classes_with_pictures(list(folders.values()))
    parts = []
    for name, folder in folders.items():
        paths, labels = list_images(folder, classes, tell=True)
        if not paths:
            raise UserError(f"{folder}: no pictures in class folders (<class>/*.jpg, ...)")
        check_levels(folder, paths, is_divided=is_divided)
        prefix = SHARD_PREFIXES.get(name, UNDIVIDED)
        parts.append(Part(prefix, folder, paths, labels, shard_images))
    if is_divided:
        _tell_what_is_left_out(source, list(folders.values()))
    return classes, parts


def _refuse_two_of_a_split(source: Place, names: list[str]) -> None:
    """Raise UserError for folders whose shards would be called the same."""
    of_prefix: dict[str, str] = {}
    for name in names:
        other = of_prefix.setdefault(SHARD_PREFIXES[name], name)
        if other != name:
            raise UserError(
                f"{source} has two folders of one split, {other} and {name}: rename one of them, "
                "or put their pictures together"
            )


def _tell_what_is_left_out(source: Place, taken: list[Place]) -> None:
    """Say in a warning which folders beside those of the splits are not converted."""
    names = {folder.name for folder in taken}
    others = [name for name in class_folders(source) if name not in names]
    if others:
        log.warning(
            "%s: folders that are no split of class folders are not converted: %s",
            source, ", ".join(others),
        )  # fmt: skip


def _claim(
    out: Place, source: Place, classes: tuple[str, ...], parts: list[Part], shard_images: int
) -> None:
    """Write conversion.json, or check that the one that is there says the same."""
    record = {
        "source": str(source),
        "shard_images": shard_images,
        "classes": len(classes),
        "splits": {
            part.prefix: {"images": len(part.paths), "files": fingerprint(part.paths)}
            for part in parts
        },
    }
    if out.exists(RECORD):
        old = from_json(out.read(RECORD), f"{out}/{RECORD}")
        if not isinstance(old, dict):
            raise UserError(f"{out}/{RECORD} is no record of a conversion")
        # The same files may have moved
        for key in ("shard_images", "classes", "splits"):
            if old.get(key) != record[key]:
                raise UserError(
                    f"{out} holds another conversion: {key} is {record[key]} now but was "
                    f"{old.get(key)}; use another --out"
                )
        return
    if [name for name in out.names() if not name.startswith(".")]:
        raise UserError(f"{out} is not empty and is no conversion; use another --out")
    out.write(RECORD, json.dumps(record, indent=2).encode())


def _write_missing(
    out: Place, classes: tuple[str, ...], parts: list[Part], on_progress: OnProgress
) -> Converted:
    present, written = set(out.names(".parquet")), 0
    todo = [(part, name, rows) for part in parts for name, rows in part.shards()]
    total, images = sum(len(rows) for _, _, rows in todo), 0
    schema = schema_of(classes)
    for number, (part, name, rows) in enumerate(todo):
        if name not in present:
            content = shard_bytes(part, rows, schema)
            out.write(name, content)
            written += len(content)
        images += len(rows)
        on_progress(Converted(images, total, number + 1, len(todo), written))
    return Converted(images, total, len(todo), len(todo), written)


def schema_of(classes: tuple[str, ...]) -> pa.Schema:
    """Return the schema of a shard, with the class names where Hugging Face's readers look."""
    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(classes), "_type": "ClassLabel"},
    }
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.schema(
        [("image", picture), ("label", pa.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )


def shard_bytes(part: Part, rows: range, schema: pa.Schema) -> bytes:
    """Return a Parquet file of these pictures; UserError names one that cannot be read."""

    def read(path: str) -> bytes:
        file = part.folder / path
        content = file.read_bytes()
        # Better now than in the middle of a training
        read_header(content, file)
        return content

    paths, labels = part.paths[rows.start : rows.stop], part.labels[rows.start : rows.stop]
    with ThreadPoolExecutor(LISTING_THREADS) as pool:
        contents = list(pool.map(read, paths))
    sink = pa.BufferOutputStream()
    # The stubs know only all or none
    dictionaries: Any = ["image.path", "label"]
    with pq.ParquetWriter(
        sink,
        schema,
        compression={"image.bytes": "none", "image.path": "zstd", "label": "zstd"},
        use_dictionary=dictionaries,
        # Of pictures they would be pictures
        write_statistics=["label"],
        write_page_checksum=True,
    ) as writer:
        for first, last in pairwise(_group_starts([len(content) for content in contents])):
            group = slice(first, last)
            pictures = [
                {"bytes": content, "path": path.partition("/")[2]}
                for content, path in zip(contents[group], paths[group], strict=True)
            ]
            columns = {"image": pictures, "label": labels[group]}
            writer.write_table(pa.table(columns, schema=schema), row_group_size=len(pictures))
    return bytes(sink.getvalue().to_pybytes())


def _group_starts(sizes: list[int]) -> list[int]:
    """Return the first row of every row group, and the number of rows at the end."""
    starts, held = [0], 0
    for row, size in enumerate(sizes):
        if held and held + size > GROUP_BYTES:
            starts, held = [*starts, row], 0
        held += size
    return [*starts, len(sizes)]
