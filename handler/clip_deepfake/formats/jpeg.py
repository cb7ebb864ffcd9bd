"""Reads a JPEG's header: its size, the work of decoding it, and what shows that it is complete.

ITU-T T.81. Looked at is the first picture alone: telephones put films and more pictures behind it.
"""

import re
import struct
from dataclasses import dataclass

from clip_deepfake.errors import HeaderError, UnsupportedImageError
from clip_deepfake.formats import Bytes, Header

MOST_SEGMENTS = 4096
"""Of a picture. Cameras write about ten; a colour profile takes at most 255."""

MOST_SCANS = 100
"""Passes over the pixels. Encoders make about ten; one that changes nothing takes 75 bytes."""

MOST_SCANNED = 1 << 30
"""Pixels times scans: 0.6 seconds where they change nothing."""

USUAL_SCANS = 10
"""Up to which a picture costs what its pixels do."""

MARKER = re.compile(rb"\xff([\x01-\xfe])")
MARKER_BUT_RESTART = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")

FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
SEQUENTIAL, PROGRESSIVE = {0xC0, 0xC1}, {0xC2}
ARITHMETIC = {0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD8)}
START, END, SCAN, RESTARTS = 0xD8, 0xD9, 0xDA, 0xDD
CHANNELS = {1, 3, 4}
COEFFICIENTS = 64

ONES = b"\xff\0" * 8
"""Eight bytes of pixels, which is how far a decoder reads ahead of what it needs. No code of a
table is all ones, so that a decoder that lacks pixels has used them up a few codes later, and asks
for more."""

OTHERS = (bytes(8), b"\x55" * 8)
"""Likewise; together they give other pixels where even one code is missing."""

RESTART = re.compile(rb"\xff[\xd0-\xd7]")
END_MARKER, LATE_HEIGHT = b"\xff\xd9", b"\xff\xdc"


@dataclass(frozen=True)
class _Frame:
    """How a picture is coded.

    Attributes:
        marker: that says in which way.
        width: in pixels.
        height: likewise.
        units: of a scan that holds several components.
        blocks: of 8x8 values, by component; the units of a scan that holds it alone.
    """

    marker: int
    width: int
    height: int
    units: int
    blocks: dict[int, int]

    @property
    def pixels(self) -> int:
        return self.width * self.height


NOTHING = _Frame(0, 0, 0, 0, {})
"""In the place of a frame that has not come."""


def read_jpeg(data: Bytes, most_pixels: int) -> Header:
    """Reads a picture from its first marker to the last of its pixels.

    Args:
        data: the file.
        most_pixels: of a picture with more only the size is read.

    Raises:
        HeaderError: it lacks pixels, or is made to keep a decoder busy.
        UnsupportedImageError: it is of a kind that no decoder here reads.
        struct.error: it ends within a segment.
    """
    walk, position = _Walk(), 2
    for _ in range(MOST_SEGMENTS):
        found = MARKER.search(data, position)
        if found is None:
            return walk.picture(is_ended=False)
        marker, position = found[1][0], found.end()
        if marker in (START, END):
            return walk.picture(is_ended=marker == END)
        if marker in WITHOUT_LENGTH:
            continue
        position = walk.read_segment(data, marker, position)
        if marker in FRAMES and walk.frame.pixels > most_pixels:
            return Header(walk.frame.width, walk.frame.height, walk.frame.pixels)
        if walk.needs_no_more:
            return walk.picture(is_ended=position < len(data))
    raise HeaderError(f"it has more than {MOST_SEGMENTS} segments")


class _Walk:
    """What the segments up to some place have said."""

    def __init__(self) -> None:
        self.frame = NOTHING
        self._interval = 0
        self._scans = 0
        self._end = 0
        # By component, for each coefficient: whether bits of it are still to come.
        self._lacks: dict[int, list[bool]] = {}

    @property
    def needs_no_more(self) -> bool:
        """Whether a decoder stops here: after one scan that holds every component."""
        return self._scans == 1 and self._is_sequential and not self._is_incomplete

    def picture(self, *, is_ended: bool) -> Header:
        """Returns what has been read.

        Args:
            is_ended: whether a marker says so, not just the end of the file.
        """
        frame = self.frame
        if not self._scans:
            raise HeaderError("it ends before its pixels")
        if self._is_incomplete:
            raise HeaderError("it ends before the last of its scans")
        if self.needs_no_more:
            endings: tuple[bytes, ...] = (ONES,) if is_ended else (ONES, *OTHERS)
        elif is_ended and not self._is_sequential:
            # Its last scan sharpens by one bit what is there.
            endings = ()
        else:
            endings = tuple(ending + END_MARKER for ending in (ONES, *OTHERS))
        work = frame.pixels * max(self._scans, USUAL_SCANS) // USUAL_SCANS
        return Header(frame.width, frame.height, work, end=self._end, endings=endings)

    @property
    def _is_sequential(self) -> bool:
        return self.frame.marker in SEQUENTIAL

    @property
    def _is_incomplete(self) -> bool:
        return any(map(any, self._lacks.values()))

    def read_segment(self, data: Bytes, marker: int, position: int) -> int:
        """Reads a segment, whose length stands at the position; returns where it ends."""
        end = position + int(struct.unpack_from(">H", data, position)[0])
        if marker in FRAMES and self.frame is NOTHING:
            self.frame = _read_frame(data, marker, position + 2)
            self._lacks = {one: [True] * COEFFICIENTS for one in self.frame.blocks}
        elif marker == RESTARTS:
            (self._interval,) = struct.unpack_from(">H", data, position + 2)
        elif marker == SCAN:
            return self._read_scan(data, position + 2, end)
        return end

    def _read_scan(self, data: Bytes, position: int, begin: int) -> int:
        frame = self.frame
        if frame is NOTHING:
            raise HeaderError("its pixels come before their size")
        self._scans += 1
        if self._scans > MOST_SCANS or self._scans * frame.pixels > max(MOST_SCANNED, frame.pixels):
            raise HeaderError(f"it has more than {self._scans - 1} scans of {frame.pixels} pixels")
        count = data[position] if position < len(data) else 0
        first, last, bits = struct.unpack_from("3B", data, position + 1 + 2 * count)
        if self._is_sequential:
            first, last, bits = 0, COEFFICIENTS - 1, 0
        components = set(data[position + 1 : position + 1 + 2 * count : 2]) & set(self._lacks)
        for component in components:
            band = slice(first, last + 1)
            lacks = self._lacks[component]
            lacks[band] = [bits & 15 > 0] * len(lacks[band])
        pattern = MARKER_BUT_RESTART if self._interval else MARKER
        found = pattern.search(data, begin)
        # Half a marker is none.
        self._end = len(data.rstrip(b"\xff")) if found is None else found.start()
        if not frame.height and data[self._end : self._end + 2] == LATE_HEIGHT:
            raise _unsupported("whose height stands behind its pixels")
        self._check_length(data, begin, components, is_first=first == 0)
        return self._end

    def _check_length(
        self, data: Bytes, begin: int, components: set[int], *, is_first: bool
    ) -> None:
        """Makes sure that a scan has as much data as it needs whatever its pixels are."""
        blocks = [self.frame.blocks[component] for component in components]
        # A code has a bit at least, and each block has one; of the rest, thousands may share one.
        least = sum(blocks) * (2 if self._is_sequential else is_first) // 8
        if self._end - begin < least:
            raise HeaderError(f"a scan has {self._end - begin} bytes, and needs {least} or more")
        if self._interval:
            units = self.frame.units if len(blocks) > 1 else sum(blocks)
            needed = max(0, -(-units // self._interval) - 1)
            found = sum(1 for _ in RESTART.finditer(data, begin, self._end))
            if found < needed:
                raise HeaderError(f"a scan has {found} restarts, and needs {needed}")


def _read_frame(data: Bytes, marker: int, position: int) -> _Frame:
    precision, height, width, count = struct.unpack_from(">BHHB", data, position)
    if marker in ARITHMETIC:
        raise _unsupported("with arithmetic coding")
    if marker not in SEQUENTIAL | PROGRESSIVE:
        raise _unsupported("of the lossless or hierarchical kind")
    if precision != 8:
        raise _unsupported(f"of {precision} bits a channel")
    if count not in CHANNELS:
        raise _unsupported(f"of {count} channels")
    entries = [struct.unpack_from("BB", data, position + 6 + 3 * n) for n in range(count)]
    factors = {name: (max(1, both >> 4), max(1, both & 15)) for name, both in entries}
    most_across = max(across for across, _ in factors.values())
    most_down = max(down for _, down in factors.values())
    blocks = {
        name: -(-width * across // (8 * most_across)) * -(-height * down // (8 * most_down))
        for name, (across, down) in factors.items()
    }
    units = -(-width // (8 * most_across)) * -(-height // (8 * most_down))
    return _Frame(marker, width, height, units, blocks)


def _unsupported(what: str) -> UnsupportedImageError:
    return UnsupportedImageError(
        f"the image is a JPEG {what}, which is not supported; save it as an ordinary JPEG or a PNG"
    )
