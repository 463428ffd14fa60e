"""Columns of pictures in Arrow: encoded bytes, or arrays of uint8."""

# Shapes: n rows, C channels, H height, W width.
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from rsray.data._base import Pixels
from rsray.data.reading.decode import Geometry, fit
from rsray.errors import UserError

if TYPE_CHECKING:
    Column = pa.ChunkedArray[Any]
else:
    # As it runs, pyarrow's class takes no type of its elements.
    Column = pa.ChunkedArray

CHANNELS = (1, 3)


def is_tensor(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds arrays rather than encoded pictures."""
    return isinstance(kind, pa.FixedShapeTensorType) or _is_list(kind)


def encoded_pictures(column: Column, names: Sequence[object]) -> list[bytes]:
    """Return the encoded pictures of a binary or struct<bytes, ...> column.

    Raises UserError, naming the row, when there is no picture in it.
    """
    kind = column.type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        column = pc.struct_field(column, "bytes")
        kind = column.type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise UserError(
            f"{names[0]}: images are of type {kind}; allowed: struct<bytes, path>, binary, "
            "fixed-shape tensor or lists of uint8"
        )
    pictures: list[Any] = column.to_pylist()
    for row, picture in enumerate(pictures):
        if picture is None:
            raise UserError(f"{names[row]}: no image bytes")
    return pictures


def tensor_images(column: Column, to: Geometry, names: Sequence[object]) -> Pixels:
    """Return the images of an array column, uint8 [n, C, H, W], resized as `to` says.

    Raises UserError when they are not uint8 or not all of one shape.
    """
    pixels = _channels_first(_stacked(column, names), names)
    if to.short_side is None and to.crop is None and pixels.shape[1] == to.channels:
        if pixels.shape[1:] != to.shape:
            raise UserError(
                f"{names[0]}: image of shape {pixels.shape[1:]} among images of shape {to.shape}; "
                "pass --image-size"
            )
        return pixels
    last = pixels.transpose(0, 2, 3, 1)
    rows = [
        fit(Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image), to, names[i])
        for i, image in enumerate(last)
    ]
    return np.stack(rows)


def tensor_shape(column: Column, names: Sequence[object]) -> tuple[int, int, int]:
    """Return the shape C, H, W of the images in an array column."""
    _, channels, height, width = _channels_first(_stacked(column, names), names).shape
    return channels, height, width


def _stacked(column: Column, names: Sequence[object]) -> Pixels:
    """Return the rows as one array [n, ...]."""
    array: Any = column.combine_chunks()
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    if isinstance(array, pa.FixedShapeTensorArray) and not array.null_count:
        kind: Any = array.type
        _refuse_turned(kind.permutation, names)
        pixels = array.storage.flatten().to_numpy(zero_copy_only=False)
        return _checked(pixels.reshape(len(array), *kind.shape), names)
    count, sizes = len(array), []
    while _is_list(array.type):
        lengths = np.unique(pc.list_value_length(array).to_numpy(zero_copy_only=False))
        if array.null_count or len(lengths) != 1:
            raise UserError(f"{names[0]} or a row soon after: images differ in size")
        sizes.append(int(lengths[0]))
        array = array.flatten()
    if array.null_count:
        raise UserError(f"{names[0]} or a row soon after: an image lacks values")
    values = array.to_numpy(zero_copy_only=False)
    return _checked(values.reshape(count, *sizes), names)


def _refuse_turned(permutation: Sequence[int] | None, names: Sequence[object]) -> None:
    """Raise UserError for arrays that are stored with height and width exchanged.

    Other permutations say that channels are stored first and named last, or the other way round:
    where they are, the stored shape shows. (Arrow's own array of such a column is another picture.)
    """
    order = list(permutation or ())
    moved = [order[i:] + order[:i] for i in range(len(order))] if len(order) == 3 else [order]
    if sorted(order) not in moved:
        raise UserError(
            f"{names[0]}: arrays are stored in the permutation {order}: store them as (C, H, W) or "
            "(H, W, C)"
        )


def _checked(values: NDArray[Any], names: Sequence[object]) -> Pixels:
    if values.dtype != np.uint8:
        raise UserError(f"{names[0]}: images are arrays of {values.dtype}; must be uint8, 0..255")
    return values


def _channels_first(values: Pixels, names: Sequence[object]) -> Pixels:
    """Return [n, C, H, W] from [n, H*W], [n, H, W], [n, C, H, W] or [n, H, W, C].

    Raises UserError for colours in one row: their order, C H W or H W C, would be a guess.
    """
    if values.ndim == 2 and (side := math.isqrt(values.shape[1])) ** 2 == values.shape[1]:
        return values.reshape(-1, 1, side, side)
    if values.ndim == 3:
        return values[:, None]
    is_first, is_last = (values.ndim == 4 and values.shape[at] in CHANNELS for at in (1, -1))
    if is_first and not is_last:
        return values
    if is_last and not is_first:
        return values.transpose(0, 3, 1, 2)
    raise UserError(
        f"{names[0]}: arrays of shape {values.shape[1:]} are no images; allowed: (C, H, W) or "
        "(H, W, C) with 1 or 3 channels, (H, W), and flat where they are square and grey"
    )


def _is_list(kind: pa.DataType) -> bool:
    return (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )
