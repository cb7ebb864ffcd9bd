import struct

import numpy as np
import pytest
from clip_deepfake.errors import HeaderError
from clip_deepfake.tiff import MOST_SCANS, read_tiff_size

Entry = tuple[int, int, int, int]

SIZE: list[Entry] = [(256, 3, 1, 30), (257, 4, 1, 20)]


def tiff(entries: list[Entry], data: bytes = b"", order: str = "<") -> bytes:
    head = b"II*\0" if order == "<" else b"MM\0*"
    directory = b"".join(_entry(order, *entry) for entry in entries)
    count = struct.pack(order + "IH", 8, len(entries))
    return head + count + directory + struct.pack(order + "I", 0) + data


def _entry(order: str, tag: int, kind: int, count: int, value: int) -> bytes:
    # A short value stands at the left of its four bytes.
    form, values = ("HH", (value, 0)) if kind == 3 else ("I", (value,))
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


@pytest.mark.parametrize(("scans", "is_right"), [(MOST_SCANS + 2, True), (MOST_SCANS + 3, False)])
def test_scans_of_a_jpeg_inside_are_counted(scans: int, is_right: bool) -> None:
    compression: Entry = (259, 3, 1, 7)
    entries = [*SIZE, compression, (279, 4, 2, 8 + 2 + 12 * 4 + 4)]
    data = np.array([5, 5], "<u4").tobytes() + b"\xff\xda" * scans
    if is_right:
        assert read_tiff_size(tiff(entries, data)) == (30, 20)
    else:
        with pytest.raises(HeaderError, match="scans"):
            read_tiff_size(tiff(entries, data))


def test_a_directory_of_millions_is_not_walked() -> None:
    head = b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, 1 << 40)
    with pytest.raises(HeaderError, match="entries"):
        read_tiff_size(head)


@pytest.mark.parametrize("first", [17, 1 << 63, (1 << 64) - 1])
def test_a_directory_beyond_the_end_is_refused(first: int) -> None:
    with pytest.raises(HeaderError, match="directory lies beyond its end"):
        read_tiff_size(b"II+\0" + struct.pack("<HHQ", 8, 0, first))
