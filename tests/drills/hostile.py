"""Nothing in, image files out that are made to hurt whoever opens them.

Each is below the server's limit of 32 MiB a request, and made in a moment.
"""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

MEGABYTE = 1 << 20
LIMIT_PIXELS = 50_000_000
SIDE = 7000
"""Of a square image just below the default limit of pixels."""

JUDGED = "judged"
"""In the place of an error's code: the image is one, and gets a verdict."""


@dataclass(frozen=True)
class Hostile:
    """A file and what may become of it.

    Attributes:
        name: What it is.
        make: Returns its bytes.
        outcomes: The error codes that are right, or `JUDGED`.
        growth_mb: Most memory that opening it may take, in MiB: 12 bytes for each pixel that it
            really has, and some for the decoder.
    """

    name: str
    make: Callable[[], bytes]
    outcomes: frozenset[str]
    growth_mb: int = 96


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, pixels: bytes, between: bytes = b"") -> bytes:
    """An RGB PNG of compressed rows, with chunks between its header and them."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            _png_chunk(b"IHDR", header),
            between,
            _png_chunk(b"IDAT", pixels),
            _png_chunk(b"IEND", b""),
        ]
    )


def _zeros(megabytes: int) -> bytes:
    """So many mebibytes of zeros, compressed; the same block again and again, made once."""
    deflate = zlib.compressobj(9)
    first = deflate.compress(bytes(MEGABYTE)) + deflate.flush(zlib.Z_FULL_FLUSH)
    block = deflate.compress(bytes(MEGABYTE)) + deflate.flush(zlib.Z_FULL_FLUSH)
    return first + block * (megabytes - 1) + deflate.flush()


def _small_png(between: bytes = b"") -> bytes:
    return _png(8, 8, zlib.compress(bytes(8 * 25)), between)


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _jpeg(after_start: bytes = b"", **options: object) -> bytes:
    """A small JPEG with something behind its first marker."""
    data = _encoded(Image.new("RGB", (64, 64), (9, 99, 199)), "JPEG", **options)
    return data[:2] + after_start + data[2:]


def _segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def _jpeg_of_scans() -> bytes:
    """The last scan of a progressive JPEG, again and again: each is a pass over all pixels."""
    image = Image.new("RGB", (SIDE, SIDE), (9, 99, 199))
    data = _encoded(image, "JPEG", progressive=True, subsampling=0)
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scan * (20 * MEGABYTE // len(scan)) + data[-2:]


def _jpeg_without_pixels() -> bytes:
    """A JPEG that ends where its pixels should begin."""
    data = _encoded(Image.new("RGB", (8, 8)), "JPEG")
    frame = data.index(b"\xff\xc0") + 5
    end = data.index(b"\xff\xda") + 14
    size = struct.pack(">HH", SIDE, SIDE)
    return data[:frame] + size + data[frame + 4 : end] + b"\xff\xd9"


def arithmetic_jpeg() -> bytes:
    """A grey progressive JPEG in arithmetic coding: a hundred scans over 49 megapixels, all empty.

    Of arithmetic coding no byte is too little; a decoder makes zeros of what is missing.
    """
    frame = _segment(0xCA, struct.pack(">BHHB3B", 8, SIDE, SIDE, 1, 1, 0x11, 0))
    mean = _segment(0xDA, bytes([1, 1, 0, 0, 0, 0]))
    rest = _segment(0xDA, bytes([1, 1, 0, 1, 63, 0]))
    tables = _segment(0xDB, b"\0" + bytes([1]) * 64)
    return b"\xff\xd8" + tables + frame + mean + rest * 99 + b"\xff\xd9"


def _exif(entries: bytes, count: int) -> bytes:
    return _segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", count) + entries)


def _tiff(entries: list[tuple[int, int, int, int]], following: int = 0, data: bytes = b"") -> bytes:
    """An 8x8 TIFF; each further entry is tag, type, count, value."""
    own = [(256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    own += [(277, 3, 1, 1)]
    every = sorted(own + entries)
    directory = b"".join(struct.pack("<HHII", *entry) for entry in every)
    head = b"II*\0" + struct.pack("<IH", 8, len(every))
    return head + directory + struct.pack("<I", following) + data


def _tiff_pixels(at: int, length: int) -> list[tuple[int, int, int, int]]:
    return [(273, 4, 1, at), (278, 3, 1, 8), (279, 4, 1, length)]


def _gif(side: int, frames: int) -> bytes:
    """A GIF of so many frames, each of a single pixel."""
    frame = (
        b"\x21\xf9\x04\0\0\0\0\0," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    )
    screen = struct.pack("<HHBBB", side, side, 0x80, 0, 0) + bytes(6)
    return b"GIF89a" + screen + frame * frames + b";"


def _animation(kind: str, side: int, frames: int) -> bytes:
    images = [Image.new("RGB", (side, side), (index % 251, 9, 99)) for index in range(frames)]
    return _encoded(images[0], kind, save_all=True, append_images=images[1:])


def _bmp_header(width: int, height: int) -> bytes:
    head = b"BM" + struct.pack("<IHHI", 54, 0, 0, 54)
    return head + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


def _webp_header(width: int, height: int) -> bytes:
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + canvas


def _refused(name: str, code: str, make: Callable[[], bytes]) -> Hostile:
    return Hostile(name, make, frozenset({code}))


def _judged(name: str, make: Callable[[], bytes], growth_mb: int = 96) -> Hostile:
    return Hostile(name, make, frozenset({JUDGED}), growth_mb)


def _box(kind: bytes, *content: bytes) -> bytes:
    inside = b"".join(content)
    return struct.pack(">I4s", 8 + len(inside), kind) + inside


def _heic(side: int, grid: int) -> bytes:
    """A HEIC of a grid of one tile, without pixels; its sides are said twice.

    Args:
        side: What the item says.
        grid: What the grid says.
    """
    own = _box(b"idat", struct.pack(">BBBBII", 0, 1, 0, 0, grid, grid))
    names = [_box(b"infe", struct.pack(">IHH4sB", 2 << 24, n, 0, k, 0)) for n, k in HEIC_ITEMS]
    places = struct.pack(">IBBH HHHHII", 1 << 24, 0x44, 0, 1, 1, 1, 0, 1, 0, 12)
    sides = _box(b"ipco", _box(b"ispe", struct.pack(">III", 0, side, side)))
    owners = struct.pack(">II HBB HBB", 0, 2, 1, 1, 1, 2, 1, 1)
    meta = [
        _box(b"pitm", struct.pack(">IH", 0, 1)),
        _box(b"iinf", struct.pack(">IH", 0, len(names)), *names),
        _box(b"iloc", places),
        _box(b"iprp", sides, _box(b"ipma", owners)),
        _box(b"iref", bytes(4), _box(b"dimg", struct.pack(">HHH", 1, 1, 2))),
        own,
    ]
    return _box(b"ftyp", b"heic", bytes(4), b"mif1heic") + _box(b"meta", bytes(4), *meta)


HEIC_ITEMS = ((1, b"grid"), (2, b"hvc1"))
WITHOUT_LIBRARY = "unsupported_image"
PROFILE = b"ICC_PROFILE\0\1\1"
SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
LOOP = struct.pack("<HHIII", 0x8769, 4, 1, 8, 8)

HOSTILE = (
    _refused("PNG of 100 megapixels", "image_too_large", lambda: _png(10_000, 10_000, _zeros(286))),
    _refused(
        "PNG whose rows go on for 8 GB", "truncated_image", lambda: _png(99, 99, _zeros(8192))
    ),
    _refused(
        "PNG with a chunk that claims 2 GB",
        "truncated_image",
        lambda: _small_png(struct.pack(">I", 0x7FFFFFFF) + b"teXt"),
    ),
    _refused(
        "PNG of 2 million chunks",
        "truncated_image",
        lambda: _small_png(_png_chunk(b"abCd", b"") * 2_000_000),
    ),
    _refused(
        "PNG whose rows go on for 8 GB, behind a text that names their chunk",
        "truncated_image",
        lambda: _png(99, 99, _zeros(8192), _png_chunk(b"tEXt", b"IDAT\0IDAT")),
    ),
    _refused(
        "PNG of 1 MB whose rows go on for 900 MB",
        "truncated_image",
        lambda: _png(99, 99, _zeros(900)),
    ),
    _refused(
        "PNG with 900 texts of 8 MB",
        "truncated_image",
        lambda: _small_png(_png_chunk(b"zTXt", b"k\0\0" + _zeros(8)) * 900),
    ),
    _judged(
        "PNG with a text of 200 MB",
        lambda: _small_png(_png_chunk(b"zTXt", b"k\0\0" + _zeros(200))),
    ),
    _judged(
        "PNG with a colour profile of 200 MB",
        lambda: _small_png(_png_chunk(b"iCCP", b"k\0\0" + _zeros(200))),
    ),
    _judged(
        "PNG with a broken colour profile",
        lambda: _small_png(_png_chunk(b"iCCP", b"k\0\0" + zlib.compress(b"no profile" * 99))),
    ),
    _judged("animated PNG of 500 frames", lambda: _animation("PNG", 64, 500)),
    _refused("BMP of 60000 x 60000", "image_too_large", lambda: _bmp_header(60_000, 60_000)),
    _refused("BMP that ends in its header", "truncated_image", lambda: _bmp_header(7000, 7000)),
    _refused(
        "JPEG of 7 million comments",
        "truncated_image",
        lambda: _jpeg(_segment(0xFE, b"") * 7_000_000),
    ),
    _judged("JPEG of 30 MB of filling", lambda: _jpeg(b"\xff" * 30_000_000)),
    _refused("JPEG of 270,000 scans", "truncated_image", _jpeg_of_scans),
    _refused("arithmetic JPEG of 100 empty scans", "unsupported_image", arithmetic_jpeg),
    _refused("JPEG of 49 megapixels without any", "truncated_image", _jpeg_without_pixels),
    _judged(
        "JPEG with a film behind it",
        lambda: _jpeg(progressive=True) + b"\xff\xda" * (6 * MEGABYTE),
    ),
    _judged("JPEG with 24 MB of EXIF", lambda: _jpeg(_exif(bytes(60_000), 5000) * 400)),
    _judged("JPEG whose EXIF runs in circles", lambda: _jpeg(_exif(LOOP, 1))),
    _judged(
        "JPEG with a broken colour profile",
        lambda: _jpeg(_segment(0xE2, PROFILE + b"\xff" * 60_000)),
    ),
    _refused(
        "TIFF whose fields claim 2 GB",
        "truncated_image",
        lambda: _tiff([(40_000 + n, 1, 7 * MEGABYTE, 8) for n in range(300)], 0, bytes(8 << 20)),
    ),
    Hostile(
        "TIFF whose directory is its own successor",
        lambda: _tiff(_tiff_pixels(8, 64), 8, bytes(64)),
        frozenset({JUDGED, "truncated_image"}),
    ),
    _refused(
        "TIFF of 8x8 pixels with a tile of 16384x16384",
        "truncated_image",
        lambda: _tiff(
            [(322, 4, 1, 16384), (323, 4, 1, 16384), (324, 4, 1, 8), (325, 4, 1, 64)], 0, bytes(64)
        ),
    ),
    _refused(
        "TIFF of 8x8 pixels with a tile of 16000x16000 in signed numbers",
        "truncated_image",
        lambda: _tiff(
            [(322, 9, 1, 16000), (323, 9, 1, 16000), (324, 4, 1, 8), (325, 4, 1, 64)], 0, bytes(64)
        ),
    ),
    _refused(
        "BigTIFF whose directory is at 2**63",
        "truncated_image",
        lambda: b"II+\0" + struct.pack("<HHQ", 8, 0, 1 << 63) + bytes(64),
    ),
    _judged("GIF of 10,000 frames", lambda: _gif(1, 10_000)),
    _refused(
        "GIF of 10,000 frames in a corner of 49 megapixels",
        "truncated_image",
        lambda: _gif(SIDE, 10_000),
    ),
    _judged("animated WebP of 500 frames", lambda: _animation("WEBP", 64, 500)),
    _refused("WebP of 16384 x 16384", "image_too_large", lambda: _webp_header(16_384, 16_384)),
    Hostile(
        "HEIC of 64x64 whose grid is 30000x30000",
        lambda: _heic(64, 30_000),
        frozenset({"truncated_image", WITHOUT_LIBRARY}),
    ),
    Hostile(
        "HEIC of 30000x30000",
        lambda: _heic(30_000, 30_000),
        frozenset({"image_too_large", WITHOUT_LIBRARY}),
    ),
    _refused("SVG", "not_an_image", lambda: SVG),
    _refused("PDF", "not_an_image", lambda: b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\n%%EOF"),
    _refused("SVG behind a JPEG's first bytes", "truncated_image", lambda: b"\xff\xd8\xff" + SVG),
    _refused("PDF behind a PNG's first bytes", "truncated_image", lambda: b"\x89PNG\r\n\x1a\n%PDF"),
)


def largest_allowed() -> bytes:
    """The image below the default limit that takes the most memory: TIFF, four channels, 16 bit."""
    pixels = _zeros(SIDE * SIDE * 8 // MEGABYTE + 1)
    entries = [
        (256, 4, 1, SIDE), (257, 4, 1, SIDE), (258, 3, 4, 8 + 2 + 9 * 12 + 4), (259, 3, 1, 8),
        (262, 3, 1, 2), (273, 4, 1, 8 + 2 + 9 * 12 + 4 + 8), (277, 3, 1, 4), (278, 4, 1, SIDE),
        (279, 4, 1, len(pixels)),
    ]  # fmt: skip
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    return head + directory + bytes(4) + struct.pack("<4H", 16, 16, 16, 16) + pixels
