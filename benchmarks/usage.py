"""A process id in, what it and its descendants use of the machine out."""

from collections.abc import Iterator

import psutil


class Usage:
    """A process and all that it has started, by now or later.

    Args:
        pid: The process.
    """

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)

    def cpu_s(self) -> float:
        """Returns the processor time of all that still run, and of the children that they had."""
        total = 0.0
        for process in self._processes():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system + times.children_user + times.children_system
        return total

    def largest_mb(self) -> float:
        """Returns the resident memory of the largest one, in 10**6 bytes."""
        return max(memory_mb(process.pid) for process in self._processes())

    def _processes(self) -> Iterator[psutil.Process]:
        yield self._root
        yield from self._root.children(recursive=True)


def busy_s() -> float:
    """Returns the processor time of everything on the machine, and what others took of it."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    # Linux counts a guest's time in its user's too.
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return float(sum(times) - idle - guests)


def memory_mb(pid: int) -> float:
    """Returns the resident memory of a process in 10**6 bytes, 0 once it is gone."""
    try:
        return float(psutil.Process(pid).memory_info().rss / 1e6)
    except psutil.NoSuchProcess:
        return 0.0
