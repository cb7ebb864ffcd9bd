"""Reads a TIFF's header, of its first image, and refuses what would keep libtiff busy.

TIFF 6.0, sections 2 and 7, and BigTIFF. A value is used in place, so that several may claim the
same bytes: a file of 8 megabytes can make a reader copy as many gigabytes.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from clip_deepfake.errors import HeaderError, UnsupportedImageError
from clip_deepfake.formats import Bytes, Header
from clip_deepfake.formats.jpeg import read_jpeg

VALUE_BYTES = {
    1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8,
    18: 8,
}  # fmt: skip
"""By type of a field. Readers pass over fields of other types."""

INTEGERS = {
    1: "u1", 3: "u2", 4: "u4", 6: "i1", 8: "i2", 9: "i4", 13: "u4", 16: "u8", 17: "i8", 18: "u8",
}  # fmt: skip
"""Types that sizes and counts may have, as NumPy calls them; libtiff takes the signed ones too."""

WIDTH, HEIGHT, BITS, COMPRESSION, SAMPLES, FORMAT = 256, 257, 258, 259, 277, 339
TILE_WIDTH, TILE_HEIGHT = 322, 323
PIECES = (273, 324)
"""Where the compressed pieces are: strips or tiles."""

PIECE_BYTES = (279, 325)
"""Their sizes."""

MOST_PIECES = 1 << 14
"""That are JPEGs, each of which is looked at."""

MOST_SAMPLES, MOST_BITS = 4, 16
UNSIGNED = {1, 4}
"""What samples may be: whole numbers, or of no said kind."""

LARGEST_TILE = 1 << 22
"""Pixels of a tile, whatever the image's size; a decoder makes room for a whole one."""

WORK_PER_LIMIT = 4
"""Work of all pieces that are JPEGs, in images of the most pixels."""

OLD_JPEG, JPEG = 6, 7
FAX = {2: 4, 3: 4, 4: 1}
"""Least bits of a row, by compression."""

MOST_RATIO = {5: 2560, 8: 1032, 32946: 1032, 32773: 64}
"""Of pixels' bytes to compressed ones, by compression: LZW's longest string for each of its longest
codes, deflate's, and PackBits'. libtiff makes zeros of what is missing, and says nothing."""


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


def read_tiff(data: Bytes, most_pixels: int) -> Header:
    """Reads the first image's size.

    Args:
        data: the whole file, which begins as a TIFF does.
        most_pixels: of an image with more only the size is read.

    Raises:
        HeaderError: it is missing, the file claims to hold more than it does, or lacks pixels.
        UnsupportedImageError: numbers of a kind that are no colours here.
        struct.error: it ends within its directory.
    """
    layout = _layout(data)
    reader = _Reader(data, layout, _directory(data, layout))
    reader.check_claims()
    width, height = reader.size(WIDTH), reader.size(HEIGHT)
    if width * height > most_pixels or not width * height:
        return Header(width, height, width * height)
    samples = reader.number(SAMPLES, 1)
    bits = max((1, *reader.integers(BITS).tolist()))
    _check_kind(samples, bits, reader.integers(FORMAT).tolist())
    tile = reader.number(TILE_WIDTH, 0) * reader.number(TILE_HEIGHT, 0)
    if tile > max(LARGEST_TILE, 2 * width * height):
        raise HeaderError(f"a tile would have {tile} pixels, the image has {width * height}")
    needed = (width * samples * bits + 7) // 8 * height
    work = max(width * height, tile) * max(3, samples * bits // 8) // 3
    work = max(work, reader.check_pieces(needed, height, most_pixels))
    # Of damaged pixels a fax's decoder makes white ones, and says nothing.
    is_fax = reader.number(COMPRESSION, 1) in FAX
    return Header(width, height, work, one_colour_is_damage=is_fax)


def _check_kind(samples: int, bits: int, formats: list[int]) -> None:
    kind = ""
    if not UNSIGNED.issuperset(formats):
        kind = "signed or floating-point numbers"
    elif bits > MOST_BITS:
        kind = f"{bits} bits a sample"
    elif not 1 <= samples <= MOST_SAMPLES:
        kind = f"{samples} samples a pixel"
    if kind:
        raise _unsupported(f"of {kind}")


def _unsupported(what: str) -> UnsupportedImageError:
    return UnsupportedImageError(
        f"the image is a TIFF {what}, which is not supported; save it with 8 or 16 bits a channel, "
        "or as a PNG"
    )


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


@dataclass(frozen=True)
class _Reader:
    """A file's directory and the values that it points to."""

    data: Bytes
    layout: Layout
    fields: Mapping[int, Field]

    def check_claims(self) -> None:
        """Makes sure that the values would fit into the file, each in a place of its own."""
        kinds = self.fields.values()
        claimed = sum(VALUE_BYTES.get(field.kind, 0) * field.count for field in kinds)
        if claimed > len(self.data):
            raise HeaderError(
                f"its fields would hold {claimed} bytes, the file has {len(self.data)}"
            )

    def size(self, tag: int) -> int:
        """The image's width or height."""
        values = self.integers(tag)
        if not len(values):
            raise HeaderError("it gives no size")
        return int(values[0])

    def number(self, tag: int, default: int) -> int:
        """A field's first value."""
        values = self.integers(tag)
        return int(values[0]) if len(values) else default

    def integers(self, tag: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        """A field's values; none where it is missing or of no type that a count may have."""
        field = self.fields.get(tag)
        if field is None or field.kind not in INTEGERS:
            return np.empty(0, np.uint64)
        kind = np.dtype(self.layout.order + INTEGERS[field.kind])
        if field.position + field.count * kind.itemsize > len(self.data):
            raise HeaderError(f"the values of its field {tag} lie beyond its end")
        values = np.frombuffer(self.data, kind, field.count, field.position)
        if len(values) and values.min() < 0:
            raise HeaderError(f"its field {tag} is negative: {values.min()}")
        return values.astype(np.uint64)

    def check_pieces(self, needed: int, rows: int, most_pixels: int) -> int:
        """Makes sure that the compressed pieces may hold the pixels.

        Args:
            needed: bytes of the pixels.
            rows: of them.
            most_pixels: of an image.

        Returns:
            The work of decoding them, where they are JPEGs, else 0.
        """
        compression = self.number(COMPRESSION, 1)
        sizes = np.concatenate([self.integers(tag) for tag in PIECE_BYTES])
        held = sizes.sum(dtype=np.float64)
        if held > len(self.data):
            size = len(self.data)
            raise HeaderError(f"its pixels would take {held:.0f} bytes, the file has {size}")
        if compression in (OLD_JPEG, JPEG):
            return self._check_jpegs(compression, sizes.tolist(), most_pixels)
        least = -(-needed // MOST_RATIO[compression]) if compression in MOST_RATIO else 0
        least = max(least, rows * FAX.get(compression, 0) // 8)
        if len(sizes) and held < least:
            raise HeaderError(f"its pixels have {held:.0f} bytes, and need {least} or more")
        return 0

    def _check_jpegs(self, compression: int, sizes: list[int], most_pixels: int) -> int:
        if not sizes:
            raise HeaderError("it does not say how large its pieces are")
        if compression == OLD_JPEG:
            raise _unsupported("with JPEGs of the old kind (compression 6)")
        if len(sizes) > MOST_PIECES:
            raise HeaderError(f"it has {len(sizes)} pieces that are JPEGs")
        places = np.concatenate([self.integers(tag) for tag in PIECES]).tolist()
        found = [
            read_jpeg(self.data[place : place + size], most_pixels)
            for place, size in zip(places, sizes, strict=False)
        ]
        work = sum(piece.work for piece in found)
        if work > WORK_PER_LIMIT * most_pixels:
            raise HeaderError(f"its pieces have {work} pixels and more")
        return work
