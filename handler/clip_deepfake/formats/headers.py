"""Reads the header of an image file: GIF, BMP and WebP here, JPEG, PNG, TIFF and HEIC beside it.

Hostile files cost next to nothing.
"""

import re
import struct
import sys

import numpy as np

from clip_deepfake.errors import HeaderError, UnsupportedImageError
from clip_deepfake.formats import Bytes, Header
from clip_deepfake.formats.heif import read_heif
from clip_deepfake.formats.jpeg import read_jpeg
from clip_deepfake.formats.png import read_png
from clip_deepfake.formats.tiff import read_tiff

ANY = sys.maxsize

BMP_PLAIN, BMP_RUNS = {0, 3}, {1: 8, 2: 4}
"""By compression; of runs, the bits of a pixel."""

RUNS = re.compile(rb"(?:[\x01-\xff][\0-\xff]){1,4096}")
RUNS_END, RUNS_JUMP = 1, 2

WEBP_ANIMATED = 2

MOST_BLOCKS = 1 << 16
"""Of a GIF or a WebP before its first frame."""

GIF_END = b";"


def read_header(data: Bytes, most_pixels: int = ANY) -> Header | None:
    """Reads an image's size.

    Args:
        data: the whole file.
        most_pixels: of an image with more nothing but the size matters.

    Returns:
        The size, or None when the bytes begin as none of the known formats.

    Raises:
        HeaderError: the file is damaged, or made to keep a decoder busy.
        UnsupportedImageError: the file may be whole, but no decoder here reads its kind.
    """
    for magic, read in FORMATS:
        if magic.match(data):
            try:
                return read(data, most_pixels)
            except struct.error as error:
                raise HeaderError("it ends within its header") from error
    return None


def _gif(data: Bytes, most_pixels: int) -> Header:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    if width * height > most_pixels:
        return Header(width, height)
    position = 13 + _palette_bytes(flags)
    for _ in range(MOST_BLOCKS):
        kind = data[position : position + 1]
        if kind == b",":
            _check_covered(width * height, *struct.unpack_from("<HH", data, position + 5))
            endings = () if data[-1:] == GIF_END else (GIF_END,)
            return Header(width, height, end=len(data), endings=endings)
        if kind != b"!":
            break
        position += 2
        while length := struct.unpack_from("B", data, position)[0]:
            position += 1 + length
        position += 1
    raise HeaderError("it has no frame")


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _check_covered(pixels: int, width: int, height: int) -> None:
    """Makes sure that a file has the larger part of the pixels that it says.

    What its first frame leaves out is of one colour, which no verdict is given on.

    Args:
        pixels: that it says it has.
        width: of the first frame.
        height: likewise.

    Raises:
        HeaderError: they are fewer than half.
    """
    if 2 * width * height < pixels:
        raise HeaderError(f"it has {width}x{height} of its {pixels} pixels")


def _bmp(data: Bytes, most_pixels: int) -> Header:
    (length,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if length == 12 else "<ii", data, 18)
    height = abs(height)
    if length >= 40 and 0 < width * height <= most_pixels:
        (begin,) = struct.unpack_from("<I", data, 10)
        (compression,) = struct.unpack_from("<I", data, 30)
        if compression in BMP_RUNS:
            painted = _painted(data, begin, BMP_RUNS[compression], width * height, height)
            _check_covered(width * height, painted, 1)
        elif compression not in BMP_PLAIN:
            raise UnsupportedImageError(
                f"the image is a BMP of compression {compression}, which is not supported; save it "
                "without, or as a PNG"
            )
    return Header(width, height)


def _painted(data: Bytes, position: int, bits: int, pixels: int, rows: int) -> int:
    """Counts the pixels of a BMP's runs until they are enough.

    Args:
        data: the whole file.
        position: where the runs begin.
        bits: of a pixel.
        pixels: that the image has.
        rows: likewise.
    """
    painted = 0
    # Runs in a row are counted at once; the rest are ends of rows, jumps, and pixels without runs.
    for _ in range(4 * rows + pixels):
        if 2 * painted >= pixels:
            break
        runs = RUNS.match(data, position)
        if runs is not None:
            lengths = np.frombuffer(data, np.uint8, runs.end() - position, position)[::2]
            painted, position = painted + int(lengths.sum(dtype=np.int64)), runs.end()
            continue
        (escape,) = struct.unpack_from("B", data, position + 1)
        position += 2
        if escape == RUNS_END:
            break
        if escape == RUNS_JUMP:
            position += 2
        elif escape:
            painted += escape
            position += (escape * bits + 15) // 16 * 2
    return painted


def _webp(data: Bytes, most_pixels: int) -> Header:
    kind = bytes(data[12:16])
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return Header(width & 0x3FFF, height & 0x3FFF)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return Header((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8X":
        width, height = _long_sizes(data, 24)
        if data[20] & WEBP_ANIMATED and width * height <= most_pixels:
            frame = _webp_frame(data)
            _check_covered(width * height, *_long_sizes(data, frame + 6))
        return Header(width, height)
    raise HeaderError("its first chunk is no WebP header")


def _webp_frame(data: Bytes) -> int:
    """Returns where an animation's first frame is."""
    position = 12
    for _ in range(MOST_BLOCKS):
        kind, length = struct.unpack_from("<4sI", data, position)
        if kind == b"ANMF":
            return position + 8
        position += 8 + length + length % 2
    raise HeaderError(f"it has more than {MOST_BLOCKS} chunks before its first frame")


def _long_sizes(data: Bytes, position: int) -> tuple[int, int]:
    low_width, high_width, low_height, high_height = struct.unpack_from("<HBHB", data, position)
    return (low_width | high_width << 16) + 1, (low_height | high_height << 16) + 1


FORMATS = (
    (re.compile(rb"\xff\xd8\xff"), read_jpeg),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), read_png),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), _webp),
    (re.compile(rb"BM"), _bmp),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), read_tiff),
    (re.compile(rb"GIF8[79]a"), _gif),
    (re.compile(rb".{4}ftyp(?:hei[cxms]|hev[cxms]|mi[af][12fF]|msf1)", re.DOTALL), read_heif),
)
"""How a file of each format begins, and what reads its header."""
