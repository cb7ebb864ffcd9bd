"""The bytes of an archive around its contents: read front to back, as TorchServe unpacks them.

A zip says twice what it holds: in a header before each content, and in a directory at its end. A
reader of one may see another archive than a reader of the other. So whatever is not content must
be, byte for byte, what this project writes for entries of these names, sizes and checksums.
"""

import hashlib
import os
import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
MAX_ENTRIES = 1000
BLOCK_BYTES = 1 << 20

# The layouts of APPNOTE.TXT, https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_EXTRA64 = struct.Struct("<2H2Q")

_LOCAL_SIGNATURE = b"PK\x03\x04"
_VERSION, _VERSION64 = 20, 45
_UNIX = 3 << 8
_MODE = 0o644 << 16
_DATE = (1 << 5) | 1  # 1 January 1980
_ELSEWHERE = 0xFFFFFFFF  # the number stands in the extra field
# zipfile's, which writes 64-bit numbers sooner than it must: the format's own limit is 2^32 - 1.
LIMIT64 = (1 << 31) - 1


class FormError(Exception):
    """The file is no archive of this project's form; the message is a predicate of the file."""


@dataclass(frozen=True)
class Entry:
    """One stored file.

    Attributes:
        name: Its path in the archive.
        size: Its bytes.
        crc: Their CRC-32.
        offset: Where its header begins.
        sha256: Digest of the content; None where that was not read.
    """

    name: str
    size: int
    crc: int
    offset: int
    sha256: str | None = None

    @property
    def content(self) -> int:
        """Where the content begins."""
        return self.offset + len(local_header(self))

    @property
    def is_large(self) -> bool:
        """Whether its size is written in 64 bits."""
        return self.size * 1.05 > LIMIT64


def read_form(path: Path, *, contents: bool) -> dict[str, Entry]:
    """Reads an archive from its first byte to its last.

    Args:
        path: Of the file.
        contents: Whether to read the contents too, compare checksums and take digests.

    Returns:
        The entries by name, in their order.

    Raises:
        FormError: It is damaged, or not of the form that this project writes.
        OSError: It cannot be read.
    """
    entries: list[Entry] = []
    with path.open("rb") as file:
        total = os.fstat(file.fileno()).st_size
        while (entry := _read_header(file)) is not None:
            if len(entries) == MAX_ENTRIES:
                raise FormError(f"holds more than {MAX_ENTRIES} entries")
            if entry.content + entry.size > total:
                raise FormError(f"is damaged: it ends within {entry.name}")
            entries.append(_digested(file, entry) if contents else entry)
            file.seek(entry.content + entry.size)
        _check_names(entries)
        start = file.tell()
        expected = directory(entries, start)
        if file.read(len(expected) + 1) != expected:
            raise FormError(
                f"is damaged or altered: what follows its {len(entries)} entries, from byte "
                f"{start} on, is not their directory alone"
            )
    return {entry.name: entry for entry in entries}


def _read_header(file: BinaryIO) -> Entry | None:
    """Reads the header at the file's position; None, and the position as it was, if none is."""
    offset = file.tell()
    fixed = file.read(_LOCAL.size)
    if len(fixed) < _LOCAL.size or not fixed.startswith(_LOCAL_SIGNATURE):
        file.seek(offset)
        return None
    *_, crc, _, size, name_length, extra_length = _LOCAL.unpack(fixed)
    name, extra = file.read(name_length), file.read(extra_length)
    if len(extra) == _EXTRA64.size:
        size = _EXTRA64.unpack(extra)[2]
    # Whatever the encoding, a name beyond ASCII is none of this project's.
    entry = Entry(name.decode("ascii", errors="replace"), size, crc, offset)
    _check_name(entry.name)
    if fixed + name + extra != local_header(entry):
        raise FormError(
            f"holds {entry.name!r} in another form than build_mar.py writes: entries are stored as "
            "they are, without extra fields, times or sizes behind the content"
        )
    return entry


def _check_name(name: str) -> None:
    if NAME.fullmatch(name) is None:
        raise FormError(f"holds {name[:200]!r}, a folder, a hidden file or a path to elsewhere")


def _check_names(entries: Sequence[Entry]) -> None:
    """Refuses what would land in one place, on a file system that ignores case too."""
    seen: set[str] = set()
    for entry in entries:
        if entry.name.lower() in seen:
            raise FormError(f"holds {entry.name!r} twice, if case is ignored")
        seen.add(entry.name.lower())
    for entry in entries:
        parts = entry.name.lower().split("/")
        for length in range(1, len(parts)):
            if "/".join(parts[:length]) in seen:
                raise FormError(f"holds {entry.name!r} below a file")


def _digested(file: BinaryIO, entry: Entry) -> Entry:
    file.seek(entry.content)
    digest, crc, left = hashlib.sha256(), 0, entry.size
    while left:
        block = file.read(min(left, BLOCK_BYTES))
        if not block:
            raise FormError(f"is damaged: it ends within {entry.name}")
        digest.update(block)
        crc = zlib.crc32(block, crc)
        left -= len(block)
    if crc != entry.crc:
        raise FormError(f"is damaged: the checksum of {entry.name} is another")
    return Entry(entry.name, entry.size, entry.crc, entry.offset, digest.hexdigest())


def local_header(entry: Entry) -> bytes:
    """What this project writes before an entry's content."""
    name, size, extra, version = entry.name.encode(), entry.size, b"", _VERSION
    if entry.is_large:
        extra = _EXTRA64.pack(1, _EXTRA64.size - 4, size, size)
        size, version = _ELSEWHERE, _VERSION64
    sizes = (entry.crc, size, size, len(name), len(extra))
    return _LOCAL.pack(_LOCAL_SIGNATURE, version, 0, 0, 0, _DATE, *sizes) + name + extra


def directory(entries: Sequence[Entry], start: int) -> bytes:
    """What this project writes behind the last content.

    Args:
        entries: All of them, in their order.
        start: Where it stands.
    """
    central = b"".join(_central_header(entry) for entry in entries)
    count, size, end64 = len(entries), len(central), b""
    if start > LIMIT64:
        end64 = _END64.pack(b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, start)
        end64 += _LOCATOR64.pack(b"PK\x06\x07", 0, start + size, 1)
    end = _END.pack(b"PK\x05\x06", 0, 0, count, count, size, min(start, _ELSEWHERE), 0)
    return central + end64 + end


def _central_header(entry: Entry) -> bytes:
    name, size, offset, large = entry.name.encode(), entry.size, entry.offset, []
    if size > LIMIT64:
        large += [size, size]
        size = _ELSEWHERE
    if offset > LIMIT64:
        large.append(offset)
        offset = _ELSEWHERE
    extra = struct.pack(f"<2H{len(large)}Q", 1, 8 * len(large), *large) if large else b""
    version = _VERSION64 if large or entry.is_large else _VERSION
    lengths = (len(name), len(extra), 0, 0, 0)
    return (
        _CENTRAL.pack(
            *(b"PK\x01\x02", version | _UNIX, version, 0, 0, 0, _DATE, entry.crc, size, size),
            *(*lengths, _MODE, offset),
        )
        + name
        + extra
    )
