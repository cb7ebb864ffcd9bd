import io
import struct

import numpy as np
import pytest
from clip_deepfake.errors import HeaderError, TruncatedImageError, UnsupportedImageError
from clip_deepfake.formats.tiff import read_tiff
from clip_deepfake.images import check_header, decode

from tests.drills.hostile import arithmetic_jpeg
from tests.unit.detector.test_images import LIMIT, photograph
from tests.unit.detector.test_jpeg import empty_scans

Entry = tuple[int, int, int, int]

SIZE: list[Entry] = [(256, 3, 1, 30), (257, 4, 1, 20)]


def read_tiff_size(data: bytes) -> tuple[int, int]:
    found = read_tiff(data, LIMIT)
    return found.width, found.height


def tiff(entries: list[Entry], data: bytes = b"", order: str = "<") -> bytes:
    head = b"II*\0" if order == "<" else b"MM\0*"
    directory = b"".join(_entry(order, *entry) for entry in entries)
    count = struct.pack(order + "IH", 8, len(entries))
    return head + count + directory + struct.pack(order + "I", 0) + data


def _entry(order: str, tag: int, kind: int, count: int, value: int) -> bytes:
    # A short value stands at the left of its four bytes.
    form, values = ("HH", (value, 0)) if kind in (3, 8) else ("I", (value,))
    return struct.pack(f"{order}HHI{form}", tag, kind, count, *values)


@pytest.mark.parametrize("order", ["<", ">"])
def test_width_and_height_are_read(order: str) -> None:
    assert read_tiff_size(tiff(SIZE, order=order)) == (30, 20)


def test_of_two_widths_the_first_counts() -> None:
    assert read_tiff_size(tiff([*SIZE, (256, 3, 1, 9)])) == (30, 20)


@pytest.mark.parametrize("entries", [[], SIZE[:1], [(256, 2, 1, 30), SIZE[1]]])
def test_a_missing_size_is_damage(entries: list[Entry]) -> None:
    with pytest.raises(HeaderError, match="gives no size"):
        read_tiff_size(tiff(entries))


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ((700, 1, 10_000, 8), "would hold 100"),
        ((279, 4, 1, 100_000), "pixels would take 100000 bytes"),
        ((279, 4, 3, 100_000), "field 279 lie beyond its end"),
        ((259, 3, 1, 7), "how large its pieces are"),
    ],
)
def test_a_file_that_claims_more_than_it_holds_is_refused(entry: Entry, words: str) -> None:
    with pytest.raises(HeaderError, match=words):
        read_tiff_size(tiff([*SIZE, entry], bytes(99)))


def test_values_in_one_place_count_each() -> None:
    entries = [(60_000 + index, 1, 90, 8) for index in range(9)]
    with pytest.raises(HeaderError, match="would hold"):
        read_tiff_size(tiff([*SIZE, *entries], bytes(99)))


def saved(pixels: np.ndarray, **options: object) -> bytes:
    import tifffile

    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


COLOURS = np.asarray(photograph(80))


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (COLOURS.astype(np.float32), "signed or floating-point"),
        (COLOURS.astype(np.float16), "signed or floating-point"),
        (COLOURS.astype(np.int16), "signed or floating-point"),
        (COLOURS.astype(np.uint32), "32 bits"),
        (COLOURS[..., 0].astype(np.float64), "signed or floating-point"),
        (np.dstack([COLOURS, COLOURS[..., :2]]), "5 samples"),
    ],
)
def test_whole_files_of_other_numbers_are_unsupported(pixels: np.ndarray, words: str) -> None:
    with pytest.raises(UnsupportedImageError, match=f"a TIFF of .*{words}.*not supported"):
        decode(saved(pixels, photometric="rgb" if pixels.ndim == 3 else "minisblack"), LIMIT)


def test_sixteen_bits_and_four_channels_are_more_work() -> None:
    data = saved(np.dstack([COLOURS, COLOURS[..., :1]]).astype(np.uint16), photometric="rgb")
    header = check_header(data, LIMIT)
    assert (header.width, header.height, header.cost) == (112, 80, 112 * 80 * 8 // 3)
    assert decode(data, LIMIT).shape == (80, 112, 3)


def pieces(extra: list[Entry], data: bytes, tags: tuple[int, int] = (273, 279)) -> bytes:
    """A file of one piece behind its directory."""
    place = 8 + 2 + 12 * (len(SIZE) + len(extra) + 2) + 4
    entries = [*SIZE, *extra, (tags[0], 4, 1, place), (tags[1], 4, 1, len(data))]
    return tiff(sorted(entries), data)


@pytest.mark.parametrize("kind", [3, 4, 8, 9])
@pytest.mark.parametrize("compression", [1, 5, 8])
def test_a_tile_much_larger_than_its_image_is_refused(kind: int, compression: int) -> None:
    extra: list[Entry] = [(259, 3, 1, compression), (322, kind, 1, 16000), (323, kind, 1, 16000)]
    with pytest.raises(HeaderError, match="a tile would have 256000000 pixels"):
        read_tiff_size(pieces(extra, bytes(64), (324, 325)))


@pytest.mark.parametrize("kind", [8, 9])
def test_a_negative_number_is_refused(kind: int) -> None:
    value = -5 & (0xFFFF if kind == 8 else 0xFFFFFFFF)
    with pytest.raises(HeaderError, match="field 322 is negative: -5"):
        read_tiff_size(pieces([(322, kind, 1, value)], bytes(64)))


@pytest.mark.parametrize("kind", [8, 9])
def test_signed_types_give_sizes_too(kind: int) -> None:
    assert read_tiff_size(tiff([(256, kind, 1, 30), (257, kind, 1, 20)])) == (30, 20)


@pytest.mark.parametrize(
    ("compression", "data"),
    [(2, b"\0"), (3, b"\0\x10\1"), (4, b"\0"), (5, b"\x80"), (8, b""), (32773, b"\x81\0")],
)
def test_pieces_too_small_for_their_pixels_are_no_image(compression: int, data: bytes) -> None:
    extra: list[Entry] = [(258, 3, 1, 1 if compression < 5 else 16), (259, 3, 1, compression)]
    sizes: list[Entry] = [(256, 3, 1, 100), (257, 3, 1, 100)]
    place = 8 + 2 + 12 * 6 + 4
    entries = sizes + extra + [(273, 4, 1, place), (279, 4, 1, len(data))]
    with pytest.raises(HeaderError, match=r"have \d bytes, and need"):
        read_tiff_size(tiff(entries, data))


@pytest.mark.parametrize("compression", [2, 3, 4])
@pytest.mark.parametrize("data", [bytes(99), b"\0\x10\1" * 33])
def test_a_fax_that_cannot_be_read_is_no_white_page(compression: int, data: bytes) -> None:
    place = 8 + 2 + 12 * 9 + 4
    entries: list[Entry] = [
        (256, 3, 1, 64), (257, 3, 1, 64), (258, 3, 1, 1), (259, 3, 1, compression),
        (262, 3, 1, 0), (273, 4, 1, place), (277, 3, 1, 1), (278, 3, 1, 64), (279, 4, 1, 99),
    ]  # fmt: skip
    with pytest.raises(TruncatedImageError):
        decode(tiff(entries, data), LIMIT)


def test_a_jpeg_inside_is_held_to_what_holds_for_jpegs() -> None:
    compression: Entry = (259, 3, 1, 7)
    with pytest.raises(UnsupportedImageError, match="arithmetic"):
        read_tiff_size(pieces([compression], arithmetic_jpeg()))
    with pytest.raises(HeaderError, match="scans of 49000000 pixels"):
        read_tiff_size(pieces([compression], empty_scans(7000, 30)))
    with pytest.raises(UnsupportedImageError, match="old kind"):
        read_tiff_size(pieces([(259, 3, 1, 6)], arithmetic_jpeg()))


def test_a_directory_of_millions_is_not_walked() -> None:
    head = b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, 1 << 40)
    with pytest.raises(HeaderError, match="entries"):
        read_tiff_size(head)


@pytest.mark.parametrize("first", [17, 1 << 63, (1 << 64) - 1])
def test_a_directory_beyond_the_end_is_refused(first: int) -> None:
    with pytest.raises(HeaderError, match="directory lies beyond its end"):
        read_tiff_size(b"II+\0" + struct.pack("<HHQ", 8, 0, first))
