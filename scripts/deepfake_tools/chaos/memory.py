"""A process id in, by how much its memory has grown at its peak out; Linux alone tells."""

from pathlib import Path

PEAK_AGAIN = "5"
"""To a process's `clear_refs`: the peak begins anew at what is resident now; see proc(5)."""


class PeakMemory:
    """The resident memory of a process, from now on.

    Args:
        pid: The process.

    Attributes:
        before_mb: What is resident now, in 10**6 bytes.
        peak_mb: The most that was, at the last look.
    """

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        (self._folder / "clear_refs").write_text(PEAK_AGAIN)
        self.before_mb = self._read("VmRSS")
        self.peak_mb = self.before_mb

    def growth(self) -> float:
        """Returns the share by which the peak since then is above what was resident before."""
        self.peak_mb = self._read("VmHWM")
        return self.peak_mb / self.before_mb - 1

    def __str__(self) -> str:
        return f"{self.before_mb:.0f} MB, at its peak {self.peak_mb:.0f} MB"

    def _read(self, field: str) -> float:
        for line in (self._folder / "status").read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return int(value.split()[0]) * 1.024e-3
        raise ValueError(f"{self._folder / 'status'} has no {field}")
