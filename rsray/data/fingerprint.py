"""What tells the data of one run from others, and whether images are among those trained on."""

# Shapes: N images of a split.
from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from rsray.data._base import ImageSplit
from rsray.data.splits import name_marks

# Images of which a fingerprint keeps name and content
SAMPLE = 512
NAME_BYTES, CONTENT_BYTES = 4, 6
WHAT_IT_COVERS = ("images", "labels", "names", "contents")


def _is_base64(text: str) -> str:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("data_fingerprint.sample is no base64") from None
    return text


class FingerprintRecord(BaseModel):
    """What a record says of the data trained on, as `fingerprint` returns it."""

    model_config = ConfigDict(frozen=True, strict=True)

    images: int | None = Field(None, ge=0)
    labels: str | None = None
    names: str | None = None
    contents: str | None = None
    sample: Annotated[str, AfterValidator(_is_base64)] | None = None


def fingerprint(split: ImageSplit, *, sampled: bool) -> dict[str, Any]:
    """Return what tells a split's data from others, as it is recorded.

    It covers the number of images, the labels, and, where files or rows have names, these names and
    the contents of 64 images spread evenly over the split: pictures that were all made anew are
    others, one that was mended may go unseen. With `sampled` it also holds names and contents of up
    to 512 images, those whose names have the lowest hashes: whatever else changes in the data,
    these can be found again.
    """
    labels = np.ascontiguousarray(split.labels, "<i8")
    record: dict[str, Any] = {"images": len(split), "labels": _digest(labels.tobytes(), 8).hex()}
    if split.image_names:
        text = "\n".join(split.image_names)
        record["names"] = _digest(text.encode(errors="surrogatepass"), 8).hex()
        record["contents"] = split.contents
    if sampled and split.image_names:
        marks = name_marks(split.image_names)
        rows = np.sort(np.argsort(marks, kind="stable")[:SAMPLE])
        pairs = b"".join(_pairs(split, rows, marks))
        record["sample"] = base64.b64encode(pairs).decode()
    return record


def is_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tell whether two fingerprints are of the same data, as far as both say."""
    return all(one[key] == other[key] for key in WHAT_IT_COVERS if key in one and key in other)


@dataclass(frozen=True)
class Seen:
    """Which images of a split were trained on, of those that were looked at."""

    looked_at: int
    # An image of the same name and content was trained on
    by_name: tuple[int, ...]
    # An image of another name and the same content was
    by_content: tuple[int, ...]


def seen_before(split: ImageSplit, trained: Mapping[str, Any]) -> Seen:
    """Return which images of a split are in the sample of the training data's fingerprint.

    Looked at are all images that are called as one of the sample, and up to 512 others.
    """
    sample = base64.b64decode(trained.get("sample") or "")
    size = NAME_BYTES + CONTENT_BYTES
    pairs = {sample[at : at + size] for at in range(0, len(sample), size)}
    if not pairs or not split.image_names:
        return Seen(0, (), ())
    names = {pair[:NAME_BYTES] for pair in pairs}
    contents = {pair[NAME_BYTES:] for pair in pairs}
    marks = name_marks(split.image_names)
    is_named = np.asarray([_name_bytes(mark) in names for mark in marks])
    others = np.flatnonzero(~is_named)
    spread = np.arange(min(SAMPLE, len(others))) * len(others) // max(1, min(SAMPLE, len(others)))
    rows = np.sort(np.concatenate([np.flatnonzero(is_named), others[spread]]))
    found = list(zip(rows.tolist(), _pairs(split, rows, marks), strict=True))
    by_name = tuple(row for row, pair in found if pair in pairs)
    by_content = tuple(
        row for row, pair in found if pair not in pairs and pair[NAME_BYTES:] in contents
    )
    return Seen(len(rows), by_name, by_content)


def _pairs(split: ImageSplit, rows: NDArray[np.int64], marks: NDArray[np.uint64]) -> list[bytes]:
    """Return name and content of these images, ten bytes each."""
    return [
        _name_bytes(marks[row]) + _digest(content, CONTENT_BYTES)
        for row, content in zip(rows, split.stored(rows), strict=True)
    ]


def _name_bytes(mark: np.uint64) -> bytes:
    return int(mark).to_bytes(8, "big")[:NAME_BYTES]


def _digest(content: bytes, size: int) -> bytes:
    return blake2b(content, digest_size=size).digest()
