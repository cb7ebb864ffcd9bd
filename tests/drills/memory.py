"""A process id in, how large its resident memory has been at its peak out; Linux alone tells."""

import threading
from pathlib import Path

PEAK_AGAIN = "5"
"""To a process's `clear_refs`: the peak begins anew at what is resident now; see proc(5)."""

SAMPLE_S = 0.02


class PeakMemory:
    """The resident memory of a process, from now on.

    The kernel's own peak where it may be set back, else the most of fifty looks a second.

    Args:
        pid: The process.

    Attributes:
        before_mb: What is resident now, in 10**6 bytes.
        peak_mb: The most that was, at the last look.
        now_mb: What was at the last look.
    """

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        self._sampler: threading.Thread | None = None
        self._looked = threading.Event()
        try:
            (self._folder / "clear_refs").write_text(PEAK_AGAIN)
        except OSError:
            self._sampler = threading.Thread(target=self._sample, daemon=True)
        self.before_mb = self.peak_mb = self.now_mb = self._read("VmRSS")
        if self._sampler:
            self._sampler.start()

    def look(self) -> None:
        """Notes the peak, and what is resident now; once."""
        self._looked.set()
        if self._sampler:
            self._sampler.join()
        self.now_mb = self._read("VmRSS")
        self.peak_mb = max(self.peak_mb, self.now_mb)
        if self._sampler is None:
            self.peak_mb = self._read("VmHWM")

    def _sample(self) -> None:
        while not self._looked.wait(SAMPLE_S):
            self.peak_mb = max(self.peak_mb, self._read("VmRSS"))

    def _read(self, field: str) -> float:
        for line in (self._folder / "status").read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return int(value.split()[0]) * 1.024e-3
        raise ValueError(f"{self._folder / 'status'} has no {field}")
