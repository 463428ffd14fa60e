"""From the bytes of encoded pictures to one uint8 array of one size."""

# Shapes: n images, C channels, H height, W width.
import io
import os
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from rsray.data._base import Pixels
from rsray.errors import UserError
from rsray.storage import Place, one_line

# PIL knows formats that start other programs (EPS): only those that are plain data.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "TIFF")
SUFFIXES = tuple(".jpg .jpeg .png .webp .bmp .gif .ppm .pgm .tif .tiff".split())
GREY_MODES = ("1", "L")
# What PIL raises on damaged files of these formats.
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
SMALL = 64 * 64  # pixels; below, PIL's time is Python's, and threads only wait for each other
MAX_THREADS = 16


Crop = Callable[[Image.Image, tuple[int, int]], Image.Image]  # to (width, height)


@dataclass(frozen=True)
class Geometry:
    """The array that every picture of a split becomes."""

    channels: int  # 1 grey, 3 RGB
    height: int
    width: int
    short_side: int | None = None  # resize to this, then crop the centre; None: never resize
    crop: Crop | None = None  # makes the picture in another way, in training

    @classmethod
    def of(cls, channels: int, height: int, width: int, image_size: int | None) -> "Geometry":
        """Return the geometry of pictures of one size, or of any when `image_size` is given."""
        if image_size is None:
            return cls(channels, height, width)
        return cls(channels, image_size, image_size, short_side=image_size)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape C, H, W of one image."""
        return self.channels, self.height, self.width


@dataclass(frozen=True)
class Header:
    """What a picture says of itself before it is decoded."""

    width: int
    height: int
    mode: str  # PIL's

    @property
    def channels(self) -> int:
        """The channels it is read with: 1 when grey, else 3."""
        return 1 if self.mode in GREY_MODES else 3


def read_header(source: bytes | Place, where: object) -> Header:
    """Return size and mode of a picture without decoding it; UserError names `where`."""
    stream: Any = io.BytesIO(source) if isinstance(source, bytes) else source.open()
    try:
        with stream, Image.open(stream, formats=FORMATS) as image:
            return Header(image.width, image.height, image.mode)
    except DAMAGE as error:
        raise UserError(f"{where}: not a readable image: {one_line(error)}") from error


def decode(data: bytes, geometry: Geometry, where: object) -> Pixels:
    """Return one picture as uint8 [C, H, W].

    Raises UserError, naming `where`, when the picture cannot be decoded, has more than 8 bits a
    channel, is coloured in a grey split, or has another size and the geometry does not resize.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        image.load()
    except DAMAGE as error:
        raise UserError(f"{where}: not a readable image: {one_line(error)}") from error
    return fit(image, geometry, where)


def fit(image: Image.Image, geometry: Geometry, where: object) -> Pixels:
    """Return a decoded picture as uint8 [C, H, W]; raises UserError as `decode` does."""
    if image.mode.startswith(("I", "F")):
        raise UserError(f"{where}: PIL mode {image.mode}; images must have 8 bits per channel")
    if geometry.channels == 1 and image.mode not in GREY_MODES:
        raise UserError(f"{where}: a {image.mode} image among grey ones; all must be grey")
    mode = "L" if geometry.channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if geometry.crop is not None:
        image = geometry.crop(image, (geometry.width, geometry.height))
    elif geometry.short_side is not None:
        image = _resize_and_crop(image, geometry, geometry.short_side)
    if image.size != (geometry.width, geometry.height):
        raise UserError(
            f"{where}: {image.width} x {image.height} pixels (width x height) among images of "
            f"{geometry.width} x {geometry.height}"
        )
    return np.asarray(image).reshape(geometry.height, geometry.width, -1).transpose(2, 0, 1)


def decode_all(
    read: Callable[[int], tuple[bytes, object]], count: int, to: Geometry, *, waits: bool = False
) -> Pixels:
    """Return pictures 0..count-1 as uint8 [n, C, H, W], decoded by a few threads.

    `read(i)` returns the bytes of picture i and what to call it in messages; `waits` says that it
    waits for a network, so that more threads pay.
    """
    out = np.empty((count, *to.shape), np.uint8)

    def decode_range(rows: range) -> None:
        for row in rows:
            data, where = read(row)
            out[row] = decode(data, to, where)

    threads = 1 if to.height * to.width < SMALL else min(num_threads(), count)
    threads = min(MAX_THREADS, count) if waits else threads
    if threads == 1:
        decode_range(range(count))
        return out
    step = max(1, count // (8 * threads))
    with ThreadPoolExecutor(threads) as pool:
        list(
            pool.map(decode_range, (range(i, min(i + step, count)) for i in range(0, count, step)))
        )
    return out


def num_threads() -> int:
    """Return how many threads may decode: Ray gives a worker its share in OMP_NUM_THREADS."""
    share = os.environ.get("OMP_NUM_THREADS", "")
    if share.isdigit() and int(share) > 0:
        return min(int(share), MAX_THREADS)
    return min(os.cpu_count() or 1, MAX_THREADS)


def _resize_and_crop(image: Image.Image, to: Geometry, short_side: int) -> Image.Image:
    """Resize the short side (bilinear, antialiased), then crop the centre, as torchvision does."""
    width, height = image.size
    if width <= height:
        size = (short_side, int(short_side * height / width))
    else:
        size = (int(short_side * width / height), short_side)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = round((size[0] - to.width) / 2), round((size[1] - to.height) / 2)
    return image.crop((left, top, left + to.width, top + to.height))
