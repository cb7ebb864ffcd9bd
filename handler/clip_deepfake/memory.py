"""A mapped file in, the physical memory of its pages back to the machine."""

import ctypes
import logging
import sys
from pathlib import Path

logger = logging.getLogger(__name__)

MAPS = Path("/proc/self/maps")
MADV_DONTNEED = 4


def release_pages(path: Path) -> None:
    """Gives back what the mappings of a file occupy in this process; read again, they come back.

    An engine keeps its own copy of the weights, in its own order, and holds on to the mapping that
    it was made from. Linux only; elsewhere the kernel takes such pages when it needs them.

    Args:
        path: of a file that is mapped for reading; what was written to a mapping would be lost.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    for start, length in _mappings(path.resolve()):
        if libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), MADV_DONTNEED):
            logger.warning("the pages of %s stay in memory: errno %d", path, ctypes.get_errno())


def _mappings(path: Path) -> list[tuple[int, int]]:
    """Start and length in bytes of each mapping of a file; see proc(5)."""
    found = []
    for line in MAPS.read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] == str(path):
            start, end = (int(part, 16) for part in fields[0].split("-"))
            found.append((start, end - start))
    return found
