"""An image file in, the same file with false sizes, lengths or markers out.

A lie among the numbers that a decoder obeys goes further than one anywhere: a PNG's other bytes
are guarded by checksums, a JPEG's size stands behind its tables, a TIFF's at its end.
"""

import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from clip_deepfake.formats.jpeg import FRAMES

MOST_LIES = 3
PNG_START = 8
GIF_SCREEN = 13


@dataclass(frozen=True)
class Number:
    """A number in a file.

    Attributes:
        at: Its position.
        form: How it is written, as `struct` has it; always unsigned.
    """

    at: int
    form: str

    @property
    def most(self) -> int:
        """The largest value it can have."""
        return int((1 << 8 * struct.calcsize(self.form)) - 1)


def lie(data: bytes, chance: random.Random) -> bytes:
    """Changes some numbers of a file that is whole.

    Args:
        data: One that `numbers` knows.
        chance: Chooses which ones, and what they become.
    """
    found = numbers(data)
    changed = bytearray(data)
    for number in chance.sample(found, chance.randint(1, MOST_LIES)):
        (value,) = struct.unpack_from(number.form, data, number.at)
        false = {0, 1, value - 1, value + 1, value * 2, number.most // 2, number.most} - {value}
        chosen = chance.choice(sorted(one for one in false if 0 <= one <= number.most))
        struct.pack_into(number.form, changed, number.at, chosen)
    for start, length in _png_chunks(data):
        # Of the chunk as it was, so that the lie is not found by its checksum.
        checksum = zlib.crc32(changed[start + 4 : start + 8 + length])
        struct.pack_into(">I", changed, start + 8 + length, checksum)
    return bytes(changed)


def numbers(data: bytes) -> list[Number]:
    """Returns the numbers that a decoder of the file obeys.

    Raises:
        ValueError: It is of no format that is known here.
    """
    for begins, find in FINDERS:
        if data.startswith(begins):
            return list(find(data))
    raise ValueError(f"no known format begins with {data[:4]!r}")


def _jpeg(data: bytes) -> Iterator[Number]:
    position, marker = 2, 0
    while marker != 0xDA:
        marker, length = struct.unpack_from(">BH", data, position + 1)
        yield from (Number(position + 1, ">B"), Number(position + 2, ">H"))
        if marker in FRAMES:
            yield from _row(position + 4, ">BHHB")
            yield from _row(position + 10, ">" + "BBB" * data[position + 9])
        elif marker == 0xDA:
            yield from _row(position + 4, ">" + "B" * (length - 2))
        position += 2 + length


def _png(data: bytes) -> Iterator[Number]:
    for start, _ in _png_chunks(data):
        yield from _row(start, ">IB")
    yield from _row(PNG_START + 8, ">IIBBBBB")


def _png_chunks(data: bytes) -> Iterator[tuple[int, int]]:
    """Yields where each chunk of a PNG starts, and how long its data is; nothing of others."""
    position = PNG_START if data.startswith(b"\x89PNG") else len(data)
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        yield position, length
        position += 12 + length


def _webp(data: bytes) -> Iterator[Number]:
    """Of the lossy kind: RIFF's and the chunk's length, the frame's tag, width and height."""
    yield from (Number(4, "<I"), Number(16, "<I"))
    yield from _row(20, "<BBB")
    yield from _row(26, "<HH")


def _bmp(data: bytes) -> Iterator[Number]:
    yield from _row(2, "<IHHI")
    yield from _row(14, "<IIIHHIIIIII")


def _tiff(data: bytes) -> Iterator[Number]:
    order = "<" if data[:1] == b"I" else ">"
    is_big = 43 in struct.unpack_from("<H", data, 2) + struct.unpack_from(">H", data, 2)
    yield Number(2, order + "H")
    first, head, entry = (8, "Q", "HHQQ") if is_big else (4, "I", "HHII")
    yield Number(first, order + head)
    (directory,) = struct.unpack_from(order + head, data, first)
    form = order + ("Q" if is_big else "H")
    (count,) = struct.unpack_from(form, data, directory)
    yield Number(directory, form)
    for index in range(count):
        at = directory + struct.calcsize(form) + index * struct.calcsize(order + entry)
        yield from _row(at, order + entry)


def _gif(data: bytes) -> Iterator[Number]:
    yield from _row(6, "<HHBBB")
    position = GIF_SCREEN + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    while data[position] == 0x21:
        position += 2
        while data[position]:
            position += 1 + data[position]
        position += 1
    yield from _row(position, "<BHHHHB")
    position += 10 + (3 << (data[position + 9] & 7) + 1 if data[position + 9] & 0x80 else 0)
    yield from _row(position, "<BB")


def _row(at: int, forms: str) -> Iterator[Number]:
    """Yields numbers that stand one behind the other."""
    order, position = forms[0], at
    for form in forms[1:]:
        yield Number(position, order + form)
        position += struct.calcsize(order + form)


FINDERS: tuple[tuple[bytes, Callable[[bytes], Iterator[Number]]], ...] = (
    (b"\xff\xd8", _jpeg),
    (b"\x89PNG", _png),
    (b"RIFF", _webp),
    (b"BM", _bmp),
    (b"II", _tiff),
    (b"MM", _tiff),
    (b"GIF8", _gif),
)
"""How a file of each format begins, and what finds its numbers."""
