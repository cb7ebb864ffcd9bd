"""A small image of our own making that a version is asked about before anybody else asks it."""

import struct
import zlib

SIDE = 64


def canary_image() -> bytes:
    """Returns a PNG of 64 x 64 RGB pixels, a diagonal ramp; whether it is real says nothing."""
    rows = b"".join(
        # Each row begins with its filter type, none.
        b"\0" + b"".join(bytes((x * 4, y * 4, (x + y) * 2)) for x in range(SIDE))
        for y in range(SIDE)
    )
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)
