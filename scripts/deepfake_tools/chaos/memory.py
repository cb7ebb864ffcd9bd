"""A process id in, what its memory is and was at its peak out; Linux alone tells."""

from pathlib import Path

PEAK_AGAIN = "5"
"""To a process's `clear_refs`: the peak begins anew at what is resident now; see proc(5)."""


class PeakMemory:
    """The resident memory of a process, from now on.

    Args:
        pid: The process.

    Attributes:
        before_mb: What is resident now, in 10**6 bytes.
    """

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        (self._folder / "clear_refs").write_text(PEAK_AGAIN)
        self.before_mb = self._read("VmRSS")

    def peak_mb(self) -> float:
        """Returns the most that was resident since then, in 10**6 bytes."""
        return self._read("VmHWM")

    def _read(self, field: str) -> float:
        for line in (self._folder / "status").read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return int(value.split()[0]) * 1.024e-3
        raise ValueError(f"{self._folder / 'status'} has no {field}")
