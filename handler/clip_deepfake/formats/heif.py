"""Reads a HEIF file's header where its pixels are HEVC, as a telephone's HEIC are.

ISO/IEC 23008-12, on the boxes of ISO/IEC 14496-12. A decoder makes room for what a stream of HEVC
says of itself and not for what the boxes say, and for each tile of a grid: all of it is looked at.
"""

import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec

from clip_deepfake.errors import HeaderError, UnsupportedImageError
from clip_deepfake.formats import Bytes, Header
from clip_deepfake.formats.hevc import SEQUENCE, sequence_size, unit_kind

CODED, GRID = b"hvc1", b"grid"
ALPHA = b"auxl"
DERIVED = b"dimg"

MOST_BOXES = 4096
MOST_ENTRIES = 1 << 14
"""Of a table: more than twice the parts of the largest photograph of a telephone."""
MOST_UNITS = 1 << 14
WORK_PER_LIMIT = 4
"""Times the largest image: what all that a file holds may have, tiles and depth maps included."""
BLOCK = 64
"""Pixels by which a coded picture may be larger than the image: the side of a coding tree unit."""

NO_LIBRARY = (
    "the image is HEIC, which is read where pillow-heif is installed: pip install "
    "'clip-deepfake[heic]' on the machine that decodes, or save the image as JPEG"
)

Span = tuple[int, int]
"""Where something begins and ends in the file."""


@lru_cache(maxsize=1)
def is_readable() -> bool:
    """Whether what decodes HEIC is installed."""
    return find_spec("pillow_heif") is not None


def read_heif(data: Bytes, most_pixels: int) -> Header:
    """Reads the size of the primary image, and what decoding it may cost.

    Args:
        data: the whole file.
        most_pixels: of an image with more nothing but the size matters.

    Raises:
        HeaderError: the file is damaged, or made to keep a decoder busy.
        UnsupportedImageError: its pixels are no HEVC, or nothing is installed to decode it.
    """
    if not is_readable():
        raise UnsupportedImageError(NO_LIBRARY)
    file = _read(data)
    width, height = file.size(file.primary)
    if width * height > most_pixels:
        return Header(width, height)
    work = file.check(most_pixels)
    width, height = file.cropped(file.primary)
    return Header(width, height, work=work, reader="libheif")


class _Cursor:
    """Reads numbers one after another."""

    def __init__(self, data: Bytes, span: Span) -> None:
        self.data = data
        self.position, self.end = span

    def number(self, size: int) -> int:
        """Returns a number of so many bytes, 0 of none."""
        after = self.position + size
        if after > self.end:
            raise HeaderError("it ends within its header")
        value = int.from_bytes(self.data[self.position : after])
        self.position = after
        return value

    def full(self) -> tuple[int, int]:
        """Returns a full box's version and flags."""
        return self.number(1), self.number(3)

    def count(self, size: int) -> int:
        """Returns how many entries a table has."""
        if (count := self.number(size)) > MOST_ENTRIES:
            raise HeaderError(f"a table of its header has {count} entries")
        return count

    def rest(self) -> Span:
        """Returns what is left."""
        return self.position, self.end


def _boxes(data: Bytes, span: Span) -> Iterator[tuple[bytes, Span]]:
    """Yields the kind and the content of each box."""
    position, end = span
    for _ in range(MOST_BOXES):
        if position >= end:
            return
        size, kind = struct.unpack_from(">I4s", data, position)
        begin = position + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, begin)
            begin += 8
        after = end if size == 0 else position + size
        if not begin <= after <= end:
            raise HeaderError(f"its box {kind!r} is of {size} bytes, and does not fit")
        yield kind, (begin, after)
        position = after
    raise HeaderError(f"it has more than {MOST_BOXES} boxes in a row")


@dataclass
class _HeifFile:
    """What a file's boxes say.

    Attributes:
        data: the whole file.
        primary: the item that is the image.
        kinds: of each item.
        places: the parts of each item's content; of one that lies elsewhere, none.
        properties: of each item, their kinds and contents.
        references: by kind and by the item that they come from.
    """

    data: Bytes
    primary: int = 0
    kinds: dict[int, bytes] = field(default_factory=dict)
    places: dict[int, list[Span]] = field(default_factory=dict)
    properties: dict[int, list[tuple[bytes, Span]]] = field(default_factory=dict)
    references: dict[tuple[bytes, int], list[int]] = field(default_factory=dict)

    def size(self, item: int) -> tuple[int, int]:
        """Returns the width and height that an item says it has, in pixels."""
        cursor = _Cursor(self.data, self._property(item, b"ispe"))
        cursor.full()
        return cursor.number(4), cursor.number(4)

    def cropped(self, item: int) -> tuple[int, int]:
        """Returns the width and height of what is shown of an item."""
        width, height = self.size(item)
        for kind, span in self.properties.get(item, []):
            if kind == b"clap":
                cursor = _Cursor(self.data, span)
                sides = [_whole(cursor.number(4), cursor.number(4)) for _ in range(2)]
                width, height = min(width, sides[0]), min(height, sides[1])
        return width, height

    def check(self, most_pixels: int) -> int:
        """Makes sure that no item is larger than it may be, and returns their pixels together."""
        kind = self.kinds.get(self.primary)
        if kind not in (CODED, GRID):
            raise UnsupportedImageError(
                f"the image is a HEIF of kind {(kind or b'none').decode('latin-1')!r}, of which "
                "only HEVC (HEIC) is decoded; save it as JPEG"
            )
        for (reference, item), others in self.references.items():
            if (
                reference == ALPHA
                and self.primary in others
                and self.kinds.get(item)
                not in (
                    CODED,
                    GRID,
                )
            ):
                raise UnsupportedImageError("the image's alpha is no HEVC; save it as JPEG")
        held = sum(end - begin for spans in self.places.values() for begin, end in spans)
        if held > len(self.data):
            raise HeaderError(f"its items have {held} bytes, the file has {len(self.data)}")
        work = 0
        for item, kind in self.kinds.items():
            if kind == CODED:
                work += self._check_coded(item)
            elif kind == GRID:
                self._check_grid(item)
            if work > WORK_PER_LIMIT * most_pixels:
                raise HeaderError(f"its parts have {work} pixels and more")
        return work

    def _check_coded(self, item: int) -> int:
        """Makes sure that a stream is no larger than its item, and returns its pixels."""
        width, height = self.size(item)
        lengths, units = self._configuration(item)
        for unit in (*units, *self._units(item, lengths)):
            if unit_kind(unit) != SEQUENCE:
                continue
            coded_width, coded_height = sequence_size(unit)
            if coded_width >= width + BLOCK or coded_height >= height + BLOCK:
                raise HeaderError(
                    f"its part of {width}x{height} pixels is coded as {coded_width}x{coded_height}"
                )
        return width * height

    def _configuration(self, item: int) -> tuple[int, list[Bytes]]:
        """Returns how many bytes say a unit's length, and the units that go ahead of the pixels."""
        begin, end = self._property(item, b"hvcC")
        cursor = _Cursor(self.data, (begin + 21, end))
        lengths = (cursor.number(1) & 3) + 1
        units = []
        for _ in range(cursor.number(1)):
            cursor.number(1)
            for _ in range(cursor.number(2)):
                size = cursor.number(2)
                units.append(self.data[cursor.position : cursor.position + min(size, 256)])
                cursor.position += size
                if len(units) > MOST_UNITS:
                    raise HeaderError(f"it has more than {MOST_UNITS} units")
        return lengths, units

    def _units(self, item: int, lengths: int) -> Iterator[Bytes]:
        """Yields the beginning of each unit of a stream."""
        count = 0
        for span in self.places.get(item, []):
            cursor = _Cursor(self.data, span)
            while cursor.position < cursor.end:
                size = cursor.number(lengths)
                yield self.data[cursor.position : cursor.position + min(size, 256)]
                cursor.position += size
                if cursor.position > cursor.end:
                    raise HeaderError("a part of it ends within a unit")
                count += 1
                if count > MOST_UNITS:
                    raise HeaderError(f"a part of it has more than {MOST_UNITS} units")

    def _check_grid(self, item: int) -> None:
        """Makes sure that a grid is as large as its item, and that its tiles just cover it."""
        content = b"".join(bytes(self.data[a:b]) for a, b in self.places.get(item, []))[:16]
        cursor = _Cursor(content, (0, len(content)))
        cursor.number(1)
        size = 4 if cursor.number(1) & 1 else 2
        rows, columns = cursor.number(1) + 1, cursor.number(1) + 1
        width, height = cursor.number(size), cursor.number(size)
        if (width, height) != self.size(item):
            raise HeaderError(f"its grid is of {width}x{height} pixels, its item says otherwise")
        tiles = self.references.get((DERIVED, item), [])
        if len(tiles) != rows * columns or any(self.kinds.get(t) != CODED for t in tiles):
            raise HeaderError(
                f"its grid of {rows} rows and {columns} columns has {len(tiles)} tiles"
            )
        for across, down in {self.size(tile) for tile in tiles}:
            if (columns - 1) * across >= width or (rows - 1) * down >= height:
                raise HeaderError(
                    f"its tiles of {across}x{down} pixels are more than cover its grid"
                )

    def _property(self, item: int, wanted: bytes) -> Span:
        for kind, span in self.properties.get(item, []):
            if kind == wanted:
                return span
        raise HeaderError(f"its item {item} has no {wanted.decode()}")


def _whole(numerator: int, denominator: int) -> int:
    if denominator == 0 or numerator % denominator:
        raise HeaderError("it is cropped within a pixel")
    return numerator // denominator


def _read(data: Bytes) -> _HeifFile:
    """Reads the boxes in which an image is described."""
    file = _HeifFile(data)
    inside: dict[bytes, Span] = {}
    for kind, (begin, end) in _boxes(data, (0, len(data))):
        if kind == b"meta":
            inside = dict(_boxes(data, (begin + 4, end)))
            break
    missing = [k for k in (b"pitm", b"iinf", b"iloc", b"iprp") if k not in inside]
    if missing:
        raise HeaderError(f"it has no {missing[0].decode()}")
    cursor = _Cursor(data, inside[b"pitm"])
    version, _ = cursor.full()
    file.primary = cursor.number(4 if version else 2)
    _read_kinds(file, inside[b"iinf"])
    _read_places(file, inside[b"iloc"], inside.get(b"idat"))
    _read_properties(file, inside[b"iprp"])
    if b"iref" in inside:
        _read_references(file, inside[b"iref"])
    return file


def _read_kinds(file: _HeifFile, span: Span) -> None:
    cursor = _Cursor(file.data, span)
    version, _ = cursor.full()
    cursor.count(4 if version else 2)
    for kind, entry in _boxes(file.data, cursor.rest()):
        if kind == b"infe":
            inner = _Cursor(file.data, entry)
            version, _ = inner.full()
            if version >= 2:
                item = inner.number(4 if version > 2 else 2)
                inner.number(2)
                file.kinds[item] = inner.number(4).to_bytes(4)


def _read_places(file: _HeifFile, span: Span, own: Span | None) -> None:
    cursor = _Cursor(file.data, span)
    version, _ = cursor.full()
    sizes, more = cursor.number(1), cursor.number(1)
    offset_size, length_size, base_size = sizes >> 4, sizes & 15, more >> 4
    index_size = more & 15 if version else 0
    parts = 0
    for _ in range(cursor.count(4 if version > 1 else 2)):
        item = cursor.number(4 if version > 1 else 2)
        method = cursor.number(2) & 15 if version else 0
        elsewhere = cursor.number(2) != 0 or method > 1
        base = cursor.number(base_size)
        spans = []
        for _ in range(cursor.count(2)):
            cursor.number(index_size)
            begin, length = base + cursor.number(offset_size), cursor.number(length_size)
            parts += 1
            spans.append(_placed(file.data, begin, length, own if method == 1 else None))
        file.places[item] = [] if elsewhere else spans
        if parts > MOST_ENTRIES:
            raise HeaderError(f"its items have more than {MOST_ENTRIES} parts")


def _placed(data: Bytes, begin: int, length: int, own: Span | None) -> Span:
    """Returns where a part lies in the file, or in the header's own data.

    Raises:
        HeaderError: it is not all there. The decoder would leave tiles out, and say nothing.
    """
    first, last = (0, len(data)) if own is None else own
    begin += first
    end = begin + length if length else last
    if not begin <= end <= last:
        raise HeaderError(f"an item of it would end at byte {end} of {last}")
    return begin, end


def _read_properties(file: _HeifFile, span: Span) -> None:
    known: list[tuple[bytes, Span]] = []
    for kind, content in _boxes(file.data, span):
        if kind == b"ipco":
            known += _boxes(file.data, content)
        elif kind == b"ipma":
            cursor = _Cursor(file.data, content)
            version, flags = cursor.full()
            for _ in range(cursor.count(4)):
                item = cursor.number(4 if version else 2)
                places = [cursor.number(2 if flags & 1 else 1) for _ in range(cursor.number(1))]
                indices = [place & (0x7FFF if flags & 1 else 0x7F) for place in places]
                found = file.properties.setdefault(item, [])
                found += [known[index - 1] for index in indices if 0 < index <= len(known)]


def _read_references(file: _HeifFile, span: Span) -> None:
    cursor = _Cursor(file.data, span)
    version, _ = cursor.full()
    size = 4 if version else 2
    found: defaultdict[tuple[bytes, int], list[int]] = defaultdict(list)
    for kind, content in _boxes(file.data, cursor.rest()):
        inner = _Cursor(file.data, content)
        item = inner.number(size)
        found[kind, item] += [inner.number(size) for _ in range(inner.count(2))]
    file.references.update(found)
