import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from clip_deepfake.errors import HeaderError, TruncatedImageError, UnsupportedImageError
from clip_deepfake.formats.headers import read_header
from clip_deepfake.formats.png import INFLATED, MOST_STORED, inflate
from clip_deepfake.images import decode
from PIL import Image, PngImagePlugin

from tests.unit.detector.test_images import KINDS, LIMIT, encoded, photograph

PHOTO = photograph(80)


def png_with(pixels: bytes, side: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    cut = len(pixels) // 2
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", pixels[:cut])
        + chunk(b"IDAT", pixels[cut:])
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("rows", "is_right"), [(1000, True), (5000, False)])
def test_a_png_may_hold_the_rows_that_it_says(rows: int, is_right: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 255, rows * 3001, np.uint8)
    data = png_with(zlib.compress(noise.tobytes(), 1), 1000)
    header = read_header(data)
    assert header is not None
    assert header.inflated is not None
    if is_right:
        inflate(data, header.inflated)
    else:
        with pytest.raises(HeaderError, match="more pixels than it says"):
            inflate(data, header.inflated)


@pytest.mark.parametrize("between", [b"", b"tEXt", b"zTXt", b"abCd"])
@pytest.mark.parametrize("rows", [60, 100_000])
def test_rows_too_many_are_found_behind_any_word_and_in_small_files(
    between: bytes, rows: int
) -> None:
    data = png_with(zlib.compress(bytes(rows * 76), 9), 25)
    if between:
        words = b"IDAT\0\0IDAT"
        chunk = struct.pack(">I", len(words)) + between + words
        data = data[:33] + chunk + struct.pack(">I", zlib.crc32(chunk[4:])) + data[33:]
    with pytest.raises(TruncatedImageError, match="more pixels than it says"):
        decode(data, 625)


def test_inflation_stops_where_the_pixels_do(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = zlib.decompressobj

    class Counting:
        def __init__(self) -> None:
            self.inner = real()

        def decompress(self, data: bytes, most: int) -> bytes:
            found = self.inner.decompress(data, most)
            asked.append(len(found))
            return found

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

    monkeypatch.setattr(zlib, "decompressobj", Counting)
    with pytest.raises(TruncatedImageError):
        decode(png_with(zlib.compress(bytes(50_000_000), 9), 25), 625)
    assert sum(asked) <= INFLATED


def test_a_png_without_its_last_chunk_is_whole() -> None:
    data = encoded(PHOTO, "PNG")
    for cut in (1, 4, 5, 11, 12):
        assert np.array_equal(decode(data[:-cut], 1_000_000), decode(data, 1_000_000))
    for cut in (13, 17, 100):
        with pytest.raises(TruncatedImageError):
            decode(data[:-cut], 1_000_000)


def test_apples_png_is_unsupported_and_not_damaged() -> None:
    data = encoded(PHOTO, "PNG")
    apple = struct.pack(">I4sI", 4, b"CgBI", 0x50002006)
    apple += struct.pack(">I", zlib.crc32(apple[4:]))
    with pytest.raises(UnsupportedImageError, match="Apple's own form"):
        decode(data[:8] + apple + data[8:], 1_000_000)


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFFFFF, 100])
@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
def test_a_chunk_that_is_longer_than_its_file_is_named(length: int, before: bytes):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    whole = buffer.getvalue()
    place = whole.index(before) - 4
    liar = whole[:place] + struct.pack(">I", length) + b"teXt" + whole[place:]
    with pytest.raises(HeaderError, match=f"'teXt' would be {length} bytes long, more than"):
        read_header(liar)
    # What comes behind the end is nobody's business.
    assert read_header(whole + struct.pack(">I", length) + b"teXt") is not None


def text_behind() -> bytes:
    """A PNG whose pixels come in many chunks, with a text and an orientation about them."""
    info, exif = PngImagePlugin.PngInfo(), Image.Exif()
    info.add_text("before", "IDAT" * 9, zip=True)
    exif[0x0112] = 6
    data = encoded(photograph(400), "PNG", pnginfo=info, exif=exif)
    return data[:-12] + data[data.index(b"eXIf") - 4 : data.index(b"IDAT") - 4] + data[-12:]


WHOLE = {name: data for name, data in KINDS.items() if name.endswith(("png", "alpha"))} | {
    "one colour": encoded(Image.new("RGB", (300, 200), (9, 9, 200)), "PNG"),
    "many chunks": text_behind(),
    "megabytes": encoded(photograph(1200), "PNG", compress_level=1),
}
WHOLE = {name: data for name, data in WHOLE.items() if data.startswith(b"\x89PNG")}


def by_opencv(data: bytes | bytearray) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def inflated(data: bytes) -> bytes | bytearray:
    header = read_header(data)
    assert header is not None
    assert header.inflated is not None
    return inflate(data, header.inflated)


@pytest.mark.parametrize("kind", WHOLE)
def test_what_is_inflated_is_the_same_image(kind: str) -> None:
    plain = inflated(WHOLE[kind])
    assert plain != WHOLE[kind]
    assert np.array_equal(by_opencv(plain), by_opencv(WHOLE[kind]))
    with Image.open(io.BytesIO(plain)) as image, Image.open(io.BytesIO(WHOLE[kind])) as expected:
        assert image.getexif() == expected.getexif()
        assert np.array_equal(np.asarray(image), np.asarray(expected))


def chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def rebuilt(pixels: bytes, behind: bytes = b"") -> bytes:
    """A PNG of 25 x 25 pixels around a compressed stream."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 25, 25, 8, 2, 0, 0, 0))
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", header, chunk(b"IDAT", pixels), behind, chunk(b"IEND", b"")]
    )


ROWS = np.random.default_rng(0).integers(0, 3, 25 * 76, np.uint8).reshape(25, 76)
ROWS[:, 0] = 0
STREAM = zlib.compress(ROWS.tobytes())


@pytest.mark.parametrize(
    "data",
    [
        rebuilt(STREAM[:-1]),
        rebuilt(STREAM[:-4] + bytes(4)),
        rebuilt(STREAM + b"more"),
        rebuilt(STREAM, behind=chunk(b"IDAT", b"more")),
        rebuilt(STREAM[:40] + bytes([STREAM[40] ^ 255]) + STREAM[41:]),
        rebuilt(b""),
        rebuilt(STREAM).replace(STREAM, STREAM[:-1] + bytes([STREAM[-1] ^ 1])),
    ],
    ids=["cut", "checksum", "behind", "chunk behind", "damaged", "none", "chunk's checksum"],
)
def test_what_is_not_whole_is_left_to_the_decoder(data: bytes) -> None:
    assert inflated(data) is data


def test_a_whole_one_of_the_same_form_is_inflated() -> None:
    assert np.array_equal(decode(rebuilt(STREAM), LIMIT), ROWS[:, 1:].reshape(25, 25, 3))
    assert ROWS.tobytes() in inflated(rebuilt(STREAM))


def test_very_many_pixels_are_not_held_twice() -> None:
    padded = rebuilt(STREAM) + bytes(MOST_STORED // 1000)
    assert inflate(padded, MOST_STORED) is not padded
    assert inflate(padded, MOST_STORED + 1) is padded
