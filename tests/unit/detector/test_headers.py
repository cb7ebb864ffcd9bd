import io
import struct

import cv2
import numpy as np
import pytest
from clip_deepfake.errors import (
    HeaderError,
    ImageTooLargeError,
    TruncatedImageError,
    UnsupportedImageError,
)
from clip_deepfake.formats import Header
from clip_deepfake.formats.headers import read_header
from clip_deepfake.images import decode
from PIL import Image

from tests.unit.detector.test_images import KINDS, encoded, photograph

PHOTO = photograph(80)


def tiled_tiff() -> bytes:
    import tifffile

    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.asarray(PHOTO), tile=(32, 32), byteorder=">")
    return buffer.getvalue()


MORE = {
    "interlaced png": cv2.imencode(".png", np.zeros((7, 13, 3), np.uint8))[1].tobytes(),
    "big-endian tiff with tiles": tiled_tiff(),
    "bigtiff": encoded(PHOTO, "TIFF", big_tiff=True),
    "jpeg in a tiff": encoded(PHOTO, "TIFF", compression="jpeg"),
    "bilevel fax": encoded(PHOTO.convert("1"), "TIFF", compression="group4"),
    "animated webp": encoded(PHOTO, "WEBP", save_all=True, append_images=[PHOTO.rotate(9)]),
    "jpeg of several pictures": encoded(PHOTO, "MPO", save_all=True, append_images=[PHOTO]),
    "jpeg with a thumbnail's markers": encoded(
        PHOTO, "JPEG", exif=b"Exif\0\0" + b"\xff\xc0\0\x11\x08\0\x05\0\x05" + b"\xff\xda" * 200
    ),
    "16-colour bmp": encoded(PHOTO.quantize(16), "BMP"),
}


@pytest.mark.parametrize("data", (KINDS | MORE).values(), ids=KINDS | MORE)
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_the_size_is_the_one_that_pillow_reads(data: bytes, kind: type) -> None:
    header = read_header(kind(data))
    assert header is not None
    with Image.open(io.BytesIO(data)) as image:
        assert (header.width, header.height) == image.size


@pytest.mark.parametrize("data", MORE.values(), ids=MORE)
def test_what_is_odd_but_right_is_decoded(data: bytes) -> None:
    assert decode(data, 1_000_000).ndim == 3


def test_a_bmp_from_top_to_bottom_has_a_height() -> None:
    head = b"BM" + bytes(12) + struct.pack("<Iii", 40, 30, -20) + bytes(28)
    assert read_header(head) == Header(30, 20)


def test_an_old_bmp_has_short_numbers() -> None:
    head = b"BM" + bytes(12) + struct.pack("<IHHHH", 12, 30, 20, 1, 24)
    assert read_header(head) == Header(30, 20)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"RIFF1234WAVE", b"GIF87", b"II*\1"])
def test_what_begins_as_no_known_format_has_no_header(data: bytes) -> None:
    assert read_header(data) is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_ends_in_its_header_is_damaged(kind: str) -> None:
    with pytest.raises(HeaderError):
        read_header(KINDS[kind][: 12 if "webp" in kind else 8])


def runs(body: bytes, bits: int = 8, side: int = 64, compression: int | None = None) -> bytes:
    """A BMP of runs."""
    palette = bytes(4 << bits)
    head = struct.pack("<IHHI", 54 + len(palette) + len(body), 0, 0, 54 + len(palette))
    kind = {8: 1, 4: 2}[bits] if compression is None else compression
    info = struct.pack("<IiiHHIIiiII", 40, side, side, 1, bits, kind, len(body), 0, 0, 1 << bits, 0)
    return b"BM" + head + info + palette + body


ROW = b"\x40\x09\0\0"
PLAIN_ROW = b"\0\x40" + bytes(range(64)) + b"\0\0"


@pytest.mark.parametrize("row", [ROW, PLAIN_ROW])
def test_a_bmp_of_runs_is_read(row: bytes) -> None:
    assert decode(runs(row * 64 + b"\0\1"), 1_000_000).shape == (64, 64, 3)


@pytest.mark.parametrize(
    "body",
    [
        b"\0\1", ROW + b"\0\1", PLAIN_ROW * 9 + b"\0\1", b"\0\0" * 64 + b"\0\1",
        b"\0\2\1\1" * 9 + b"\0\1", b"\0\0" * 500_000, b"",
    ],
)  # fmt: skip
@pytest.mark.parametrize("bits", [8, 4])
def test_a_bmp_whose_runs_leave_its_pixels_out_is_no_image(body: bytes, bits: int) -> None:
    with pytest.raises(TruncatedImageError):
        decode(runs(body, bits), 1_000_000)


@pytest.mark.parametrize("compression", [4, 5, 11])
def test_a_bmp_with_another_format_inside_is_unsupported(compression: int) -> None:
    with pytest.raises(UnsupportedImageError, match=f"a BMP of compression {compression}"):
        decode(runs(ROW * 64, compression=compression), 1_000_000)


def gif(frame: tuple[int, int], before: bytes = b"") -> bytes:
    screen = b"GIF89a" + struct.pack("<HHBBB", 100, 100, 0, 0, 0)
    return screen + before + b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\2\2\x44\1\0;"


@pytest.mark.parametrize("frame", [(1, 1), (100, 49), (0, 0)])
@pytest.mark.parametrize("before", [b"", b"!\xf9\4\0\0\0\0\0", b"!\xfe\3abc\0" * 9])
def test_a_gif_whose_first_frame_is_a_corner_of_its_screen_is_no_image(
    frame: tuple[int, int], before: bytes
) -> None:
    with pytest.raises(TruncatedImageError, match="of its 10000 pixels"):
        decode(gif(frame, before), 1_000_000)


def test_a_gif_without_a_frame_is_no_image() -> None:
    for end in (b";", b"", b"!\xfe\3abc\0;"):
        with pytest.raises(TruncatedImageError):
            decode(b"GIF89a" + struct.pack("<HHBBB", 100, 100, 0, 0, 0) + end, 1_000_000)


def test_a_gif_whose_first_frame_leaves_out_an_edge_is_read() -> None:
    data = bytearray(encoded(PHOTO.quantize(16), "GIF"))
    data[6:8] = struct.pack("<H", PHOTO.width + 9)
    assert decode(bytes(data), 1_000_000).shape == (80, 121, 3)


def test_an_animated_webp_whose_first_frame_is_a_corner_is_no_image() -> None:
    data = bytearray(encoded(PHOTO, "WEBP", save_all=True, append_images=[PHOTO.rotate(9)]))
    assert decode(bytes(data), 1_000_000).shape == (80, 112, 3)
    data[24:30] = (999).to_bytes(3, "little") * 2
    with pytest.raises(TruncatedImageError, match="112x80 of its 1000000 pixels"):
        decode(bytes(data), 1_000_000)


def test_a_profile_that_names_a_frames_chunk_is_none() -> None:
    data = encoded(
        PHOTO,
        "WEBP",
        save_all=True,
        append_images=[PHOTO.rotate(9)],
        icc_profile=b"ANMF" + bytes(99),
    )
    assert decode(data, 1_000_000).shape == (80, 112, 3)


def test_a_gif_without_its_last_byte_is_whole() -> None:
    data = encoded(PHOTO.quantize(16), "GIF")
    assert np.array_equal(decode(data[:-1], 1_000_000), decode(data, 1_000_000))
    for cut in (3, 9, 100):
        with pytest.raises(TruncatedImageError):
            decode(data[:-cut], 1_000_000)


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_more_pixels_than_allowed_come_before_those_that_are_missing(kind: str) -> None:
    data = bytearray(encoded(PHOTO, kind, save_all=True, append_images=[PHOTO.rotate(9)]))
    if kind == "gif":
        data[6:10] = b"\xff" * 4
    else:
        data[24:30] = (9999).to_bytes(3, "little") * 2
    with pytest.raises(ImageTooLargeError):
        decode(bytes(data), 1_000_000)
