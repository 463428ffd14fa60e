"""From the bytes of encoded pictures to one uint8 array of one size."""

# Shapes: n images, C channels, H height, W width.
import io
import os
import struct
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from rsray.data._base import Pixels, ReadOptions
from rsray.errors import UserError
from rsray.storage import Place, one_line

# PIL knows formats that start other programs (EPS): only those that are plain data.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "TIFF", "AVIF", "JPEG2000")
SUFFIXES = tuple(
    ".jpg .jpeg .jpe .jfif .png .apng .webp .bmp .dib .gif .ppm .pgm .pbm .pnm .tif .tiff "
    ".avif .jp2".split()
)
GREY_MODES = ("1", "L", "LA")
# What PIL raises on damaged files of these formats.
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
# Larger pictures are refused before they are decoded: PIL's own limit, where it only warns.
MAX_PIXELS = 89_478_485
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Of EXIF: how a camera was held
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SWAPS_SIDES = (5, 6, 7, 8)
# pixels; below, PIL's time is Python's, and threads only wait for each other
SMALL = 64 * 64
MAX_THREADS = 16


# To (width, height)
Crop = Callable[[Image.Image, tuple[int, int]], Image.Image]


@dataclass(frozen=True)
class Geometry:
    """The array that every picture of a split becomes."""

    # 1 grey, 3 RGB
    channels: int
    height: int
    width: int
    # Resize to this, then crop the centre; None: never resize
    short_side: int | None = None
    # Makes the picture in another way, in training
    crop: Crop | None = None
    # Of one channel: whether coloured pictures are made grey or refused
    to_grey: bool = False
    # Turn pictures as their EXIF orientation says
    upright: bool = True

    @classmethod
    def of(
        cls, found: "Header", options: ReadOptions, others: Iterable["Header"] = ()
    ) -> "Geometry":
        """Return the geometry of pictures like the one that was found, as the user wants them.

        A grey one makes them grey, unless `others` are coloured, which are looked at only then.
        """
        channels, to_grey = options.channels or found.channels, options.channels == 1
        if channels == 1 and not to_grey and any(other.channels == 3 for other in others):
            channels = 3
        size = options.image_size
        if size is None:
            return cls(channels, found.height, found.width, to_grey=to_grey)
        return cls(channels, size, size, short_side=size, to_grey=to_grey)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape C, H, W of one image."""
        return self.channels, self.height, self.width


@dataclass(frozen=True)
class Header:
    """What a picture says of itself before it is decoded: its size once it is upright."""

    # 1 when it is grey, else 3
    channels: int
    height: int
    width: int


@dataclass(frozen=True)
class RowName:
    """What to call a row of a table in a message, worked out only when the message is written."""

    name_of: Callable[[int], str]
    row: int

    def __str__(self) -> str:
        """Return the name."""
        return self.name_of(self.row)


def read_header(source: bytes | Place, where: object) -> Header:
    """Return size and channels of a picture without decoding it; UserError names `where`."""
    stream: Any = io.BytesIO(source) if isinstance(source, bytes) else source.open()
    with stream, _opened(stream, where) as image:
        width, height = image.size
        if _orientation(image) in SWAPS_SIDES:
            width, height = height, width
        return Header(1 if image.mode in GREY_MODES else 3, height, width)


def decode(data: bytes, geometry: Geometry, where: object) -> Pixels:
    """Return one picture as uint8 [C, H, W].

    Raises UserError, naming `where`, when the picture cannot be decoded, is too large, has more
    than 8 bits a channel, is coloured in a grey split, or has another size and the geometry does
    not resize. PIL reads 16-bit colours by their upper 8 bits, here as in torchvision.
    """
    image = _opened(io.BytesIO(data), where)
    try:
        image.load()
    except DAMAGE as error:
        raise _unreadable(where, one_line(error)) from error
    turn = TURNS.get(_orientation(image)) if geometry.upright else None
    return fit(image if turn is None else image.transpose(turn), geometry, where)


def _opened(stream: Any, where: object) -> Image.Image:
    """Return a picture of which only the header has been read; UserError for what is none."""
    try:
        image = Image.open(stream, formats=FORMATS)
    except UnidentifiedImageError as error:
        if not stream.seek(0, io.SEEK_END):
            raise UserError(f"{where}: the file is empty (0 bytes)") from error
        allowed = ", ".join(FORMATS)
        raise _unreadable(where, f"cannot identify its format (allowed: {allowed})") from error
    except Image.DecompressionBombError as error:
        raise _too_large(where) from error
    except DAMAGE as error:
        raise _unreadable(where, one_line(error)) from error
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(where)
    return image


def _orientation(image: Image.Image) -> int:
    """Return the picture's EXIF orientation, 1 where none can be told (PIL turns TIFF itself)."""
    if "exif" not in image.info:
        return 1
    try:
        # PNG's own getexif would decode the picture.
        return int(Image.Image.getexif(image).get(ORIENTATION, 1))
    except (*DAMAGE, TypeError, KeyError):
        return 1


def _unreadable(where: object, why: str) -> UserError:
    return UserError(f"{where}: not a readable image: {why}")


def _too_large(where: object) -> UserError:
    return UserError(
        f"{where}: pictures of more than {MAX_PIXELS:,} pixels are refused: make it smaller"
    )


def fit(image: Image.Image, geometry: Geometry, where: object) -> Pixels:
    """Return a decoded picture as uint8 [C, H, W]; raises UserError as `decode` does."""
    if image.mode.startswith(("I", "F")):
        raise UserError(f"{where}: PIL mode {image.mode}; images must have 8 bits per channel")
    if geometry.channels == 1 and image.mode not in GREY_MODES and not geometry.to_grey:
        raise UserError(
            f"{where}: a {image.mode} image among grey ones; all must be grey, or say which they "
            "become: --channels 3 or --channels 1"
        )
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
            f"{geometry.width} x {geometry.height}; pass --image-size"
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
