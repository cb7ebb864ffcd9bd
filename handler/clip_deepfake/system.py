"""This machine: the cores and instructions that a process may use, and memory to give back."""

import ctypes
import logging
import math
import os
import platform
import sys
from pathlib import Path

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
CPU_FLAGS = Path("/proc/cpuinfo")

DOT_PRODUCTS = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"}
"""Linux's names of the instructions that sum int8 products in 32 bits."""

BFLOAT16_PRODUCTS = {"avx512_bf16", "amx_bf16"}
"""Of those that multiply bfloat16. OpenVINO takes that precision without them too, slowly."""


def available_cores() -> int:
    """Cores that this process may use: its affinity's, no more than its container's share."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS has no affinity
        cores = os.cpu_count() or 1
    return max(1, min(cores, _quota()))


def share_of_cores(workers: int) -> int | None:
    """The part of these cores that each of so many processes takes; None where one takes all."""
    return None if workers <= 1 else max(1, available_cores() // workers)


def threads_to_ask_for(threads: int | None) -> int | None:
    """Threads that a library is to compute with; None where it may use the whole machine.

    Libraries know the processor, but not all of them the part of it that this process has.

    Args:
        threads: that were asked for; None for every core that this process may use.
    """
    cores = available_cores()
    return cores if threads is None and cores < (os.cpu_count() or 1) else threads


def _quota() -> int:
    """Whole cores of the control group's quota (cgroup v2's ``cpu.max``); many without one."""
    try:
        limit, period = CPU_QUOTA.read_text().split()
        return math.ceil(int(limit) / int(period))
    except (OSError, ValueError):
        # No such file, or "max".
        return 1 << 16


def has_int8_dot_product() -> bool:
    """Whether the processor sums int8 products without overflow; True where it does not say."""
    flags = _cpu_flags()
    return platform.machine() != "x86_64" if flags is None else bool(DOT_PRODUCTS & flags)


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 fast; False where it does not say."""
    return bool(BFLOAT16_PRODUCTS & (_cpu_flags() or set()))


def _cpu_flags() -> set[str] | None:
    """The processor's own words for what it can; None where the system does not tell them."""
    try:
        text = CPU_FLAGS.read_text()
    except OSError:
        return None
    lists = (line for line in text.splitlines() if line.startswith(("flags", "Features")))
    return {flag for line in lists for flag in line.split()}


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
