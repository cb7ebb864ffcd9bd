"""A TIFF's bytes in, its first image's size out, and a refusal of what would keep libtiff busy.

TIFF 6.0, sections 2 and 7, and BigTIFF. A value is used in place, so that several may claim the
same bytes: a file of 8 megabytes can make a reader copy as many gigabytes.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from clip_deepfake.errors import HeaderError

Bytes = bytes | bytearray

VALUE_BYTES = {
    1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8,
    18: 8,
}  # fmt: skip
"""By type of a field. Readers pass over fields of other types."""

INTEGERS = {1: "u1", 3: "u2", 4: "u4", 16: "u8"}
"""Types that sizes and counts have, as NumPy calls them."""

WIDTH, HEIGHT, COMPRESSION = 256, 257, 259
PIECE_BYTES = (279, 325)
"""Sizes of the compressed pieces: strips or tiles."""

JPEG = {6, 7}
JPEG_SCAN = b"\xff\xda"
MOST_SCANS = 100
"""In all, beyond one for each piece."""


@dataclass(frozen=True)
class Layout:
    """How a file writes its directory.

    Attributes:
        order: of bytes, as `struct` and NumPy have it.
        head: format of the directory's number of entries.
        entry: format of tag, type and count.
        value: bytes of an entry's value, or of the offset where it is.
        first: position of the first directory.
    """

    order: str
    head: str
    entry: str
    value: int
    first: int


@dataclass(frozen=True)
class Field:
    """An entry of a directory: its type, how many values it has, and where they are."""

    kind: int
    count: int
    position: int


def read_tiff_size(data: Bytes) -> tuple[int, int]:
    """Reads the first image's width and height.

    Args:
        data: the whole file, which begins as a TIFF does.

    Raises:
        HeaderError: they are missing, or the file claims to hold more than it does.
        struct.error: it ends within its directory.
    """
    layout = _layout(data)
    fields = _directory(data, layout)
    claimed = sum(VALUE_BYTES.get(field.kind, 0) * field.count for field in fields.values())
    if claimed > len(data):
        raise HeaderError(f"its fields would hold {claimed} bytes, the file has {len(data)}")
    _check_pieces(data, layout, fields)
    width, height = (_integers(data, layout, fields, tag) for tag in (WIDTH, HEIGHT))
    if not len(width) or not len(height):
        raise HeaderError("it gives no size")
    return int(width[0]), int(height[0])


def _layout(data: Bytes) -> Layout:
    order = "<" if data[:1] == b"I" else ">"
    if struct.unpack_from(order + "H", data, 2)[0] == 43:
        return Layout(order, "Q", "HHQ", 8, struct.unpack_from(order + "Q", data, 8)[0])
    return Layout(order, "H", "HHI", 4, struct.unpack_from(order + "I", data, 4)[0])


def _directory(data: Bytes, layout: Layout) -> Mapping[int, Field]:
    # A BigTIFF's offset may be larger than any that Python takes for one.
    if layout.first > len(data):
        raise HeaderError("its directory lies beyond its end")
    head, entry = (struct.Struct(layout.order + form) for form in (layout.head, layout.entry))
    (count,) = head.unpack_from(data, layout.first)
    if count > 0xFFFF:
        raise HeaderError(f"its directory has {count} entries")
    fields: dict[int, Field] = {}
    for index in range(count):
        at = layout.first + head.size + index * (entry.size + layout.value)
        tag, kind, values = entry.unpack_from(data, at)
        position = at + entry.size
        if VALUE_BYTES.get(kind, 0) * values > layout.value:
            form = "Q" if layout.value == 8 else "I"
            (position,) = struct.unpack_from(layout.order + form, data, position)
        # Of two entries with one tag, readers take the first.
        fields.setdefault(tag, Field(kind, values, position))
    return fields


def _check_pieces(data: Bytes, layout: Layout, fields: Mapping[int, Field]) -> None:
    sizes = np.concatenate([_integers(data, layout, fields, tag) for tag in PIECE_BYTES])
    if sizes.sum(dtype=np.float64) > len(data):
        raise HeaderError(f"its pixels would take {sizes.sum()} bytes, the file has {len(data)}")
    if not JPEG.isdisjoint(_integers(data, layout, fields, COMPRESSION).tolist()):
        if not len(sizes):
            raise HeaderError("it does not say how large its pieces are")
        if data.count(JPEG_SCAN) > MOST_SCANS + len(sizes):
            raise HeaderError(f"it has more than {MOST_SCANS} scans beyond one for each piece")


def _integers(
    data: Bytes, layout: Layout, fields: Mapping[int, Field], tag: int
) -> np.ndarray[tuple[int], np.dtype[np.unsignedinteger]]:
    field = fields.get(tag)
    if field is None or field.kind not in INTEGERS:
        return np.empty(0, np.uint64)
    kind = np.dtype(layout.order + INTEGERS[field.kind])
    if field.position + field.count * kind.itemsize > len(data):
        raise HeaderError(f"the values of its field {tag} lie beyond its end")
    return np.frombuffer(data, kind, field.count, field.position).astype(np.uint64)
