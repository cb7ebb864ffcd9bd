"""Reads a PNG's header, and inflates its pixels, no more of them than it says that it has."""

import struct
import zlib

from clip_deepfake.errors import HeaderError, UnsupportedImageError
from clip_deepfake.formats import Bytes, Header

MOST_CHUNKS = 1 << 16
"""Of a PNG. Encoders write one for each 8192 bytes of pixels, and some others."""

MOST_TEXT = 64 << 20
"""Bytes that a PNG's compressed texts may inflate to, which a decoder does and throws away."""

TEXT_BYTES = 8 << 20
"""Of one compressed text, at which a decoder stops."""

MOST_RATIO = 1032
"""Of inflated to compressed bytes."""

INFLATED = 1 << 20
"""Bytes that are inflated at a time."""

SLICE = 1 << 16
"""Compressed bytes that are inflated at a time."""

MOST_STORED = 64 << 20
"""Bytes of pixels up to which they are inflated once, and not by the decoder again."""

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""By colour type."""

TEXTS = {b"zTXt", b"iTXt"}


def _chunk(kind: bytes, content: bytes) -> bytes:
    crc = zlib.crc32(content, zlib.crc32(kind))
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


END = _chunk(b"IEND", b"")


def read_png(data: Bytes, most_pixels: int) -> Header:
    """Reads a picture's size, and makes sure that its chunks are what they say.

    Args:
        data: the file.
        most_pixels: of a picture with more only the size is read.

    Raises:
        HeaderError: it is damaged, or made to keep a decoder busy.
        UnsupportedImageError: it is of a kind that no decoder here reads.
        struct.error: it ends within its header.
    """
    length, kind, width, height, depth, colour = struct.unpack_from(">I4sIIBB", data, 8)
    if kind == b"CgBI":
        raise UnsupportedImageError(
            "the image is a PNG in Apple's own form (CgBI), as Xcode puts it into apps, which is "
            "not supported; send the original, or turn it back with 'pngcrush -revert-iphone-"
            "optimizations'"
        )
    if (length, kind) != (13, b"IHDR") or colour not in CHANNELS:
        raise HeaderError("its first chunk is no PNG header")
    if width * height > most_pixels:
        return Header(width, height)
    end, endings, text = _walk_chunks(data)
    row = 1 + (width * CHANNELS[colour] * depth + 7) // 8
    # An interlaced image is seven smaller ones, whose rows are rounded up one by one.
    most = 2 * height * row + 64
    return Header(width, height, (height * row + text) // 3, most, end, endings)


def _walk_chunks(data: Bytes) -> tuple[int, tuple[bytes, ...], int]:
    """Makes sure that no chunk of a PNG says that it is longer than the file.

    Its decoder makes room for a chunk, twice over, before it looks whether there is one: up to
    4 GB for a file of some bytes.

    Returns:
        Where the chunks end, the ending that they lack, and bytes that their texts may take.
    """
    position, text = 8, 0
    for _ in range(MOST_CHUNKS):
        if position + 8 > len(data):
            return position, (END,), text
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"IEND" and not length:
            return position, () if position + 12 <= len(data) else (END,), text
        if length > len(data) - position - 8:
            raise HeaderError(
                f"its chunk {kind.decode('ascii', 'replace')!r} would be {length} bytes long, more "
                "than the file holds"
            )
        if kind in TEXTS:
            text += min(TEXT_BYTES, MOST_RATIO * length)
            if text > MOST_TEXT:
                raise HeaderError(f"its texts may take more than {MOST_TEXT} bytes")
        position += 12 + length
    raise HeaderError(f"it has more than {MOST_CHUNKS} chunks")


def inflate(data: Bytes, most: int) -> Bytes:
    """Makes sure that a PNG holds no more pixels than it says, and inflates them.

    Its decoder inflates all there are and throws away what is too much, and 32 megabytes of
    compressed data may be 32 gigabytes.

    Args:
        data: the whole file.
        most: bytes that its pixels take before they are compressed.

    Returns:
        A file of the same image whose pixels are stored as they are, so that its decoder copies
        them. Of a damaged file, and of one whose pixels are many, itself: a decoder judges it.

    Raises:
        HeaderError: it holds more.
    """
    if MOST_RATIO * len(data) <= most:
        return data
    chunks = _pixel_chunks(data)
    stores = most <= MOST_STORED and _are_whole(data, chunks)
    stored = bytearray(data[: chunks[0][0] - 8] if stores else b"")
    inflater, deflater, total = zlib.decompressobj(), zlib.compressobj(0), 0
    for begin, end in chunks:
        for start in range(begin, end, SLICE):
            rest = data[start : min(start + SLICE, end)]
            while rest and not inflater.eof:
                try:
                    rows = inflater.decompress(rest, INFLATED)
                except zlib.error:
                    return data
                total += len(rows)
                if total > most:
                    raise HeaderError("it holds more pixels than it says")
                if stores and (plain := deflater.compress(rows)):
                    stored += _chunk(b"IDAT", plain)
                rest = inflater.unconsumed_tail
            if rest or inflater.unused_data:
                return data
    if not stores or not inflater.eof:
        return data
    stored += _chunk(b"IDAT", deflater.flush())
    stored += data[chunks[-1][1] + 4 :]
    return stored


def _pixel_chunks(data: Bytes) -> list[tuple[int, int]]:
    """Where the content of each of the first run of IDAT chunks begins and ends."""
    position, found = 8, []
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"IDAT":
            found.append((position + 8, min(position + 8 + length, len(data))))
        elif found:
            break
        position += 12 + length
    return found


def _are_whole(data: Bytes, chunks: list[tuple[int, int]]) -> bool:
    """Whether there are chunks, and each has the checksum of its kind and content."""
    view = memoryview(data)
    return bool(chunks) and all(
        zlib.crc32(view[begin - 4 : end]).to_bytes(4, "big") == view[end : end + 4]
        for begin, end in chunks
    )
