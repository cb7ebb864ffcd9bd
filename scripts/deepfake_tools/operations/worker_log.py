"""Why a worker did not start, read from TorchServe's log: its APIs do not say it."""

import re
import time
from pathlib import Path

from deepfake_tools.inspection import ArchiveName

LOG_FILE = "model_log.log"
MAX_READ_BYTES = 1 << 20
# The log's writer is another thread than the one that answers the registration.
WRITE_DELAY_S = 2.0


class WorkerLog:
    """The part of a server's worker log that is written from now on.

    Args:
        folder: The server's log folder; it may be missing, and then there are no reasons.
        from_now: Whether to leave out what is there already.
    """

    def __init__(self, folder: Path, *, from_now: bool = True) -> None:
        self.path = folder / LOG_FILE
        self._start = self._size() if from_now else 0

    def failure(self, archive: ArchiveName) -> str | None:
        """Returns why the latest start of a version's worker failed, where the log says so.

        A detector's worker logs one line for that; where it did not get so far, say for want of
        a library, the last exception that it printed is the reason.
        """
        if reasons := self._reasons(archive):
            return reasons[-1]
        # Of a handler that it cannot import, TorchServe looks for one of its own, in vain.
        printed = re.compile(
            rf"W-\d+-{re.escape(f'{archive.name}_{archive.version}')}-stdout MODEL_LOG - "
            r"(?!.* 'ts\.torch_handler\.)([A-Za-z_.]*(?:Error|Exception): .*)"
        )
        exceptions = [match[1] for line in self._read() if (match := printed.search(line))]
        return exceptions[-1] if exceptions else None

    def said_why(self, archive: ArchiveName) -> bool:
        """Says whether a worker of a version has given up, in words."""
        return bool(self._reasons(archive))

    def await_failure(self, archive: ArchiveName) -> str | None:
        """Returns the same for a start that has failed just now."""
        deadline = time.monotonic() + WRITE_DELAY_S
        while (reason := self.failure(archive)) is None and time.monotonic() < deadline:
            if not self.path.exists():
                return None
            time.sleep(0.05)
        return reason

    def _reasons(self, archive: ArchiveName) -> list[str]:
        agreed = f"clip_deepfake load failed: {archive.name} {archive.version}: "
        return [line.partition(agreed)[2].strip() for line in self._read() if agreed in line]

    def _size(self) -> int:
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def _read(self) -> list[str]:
        """Returns the lines, the last mebibyte of them if there are more."""
        size = self._size()
        # A smaller file is a new one: the log has been rotated.
        start = self._start if self._start <= size else 0
        try:
            with self.path.open("rb") as file:
                file.seek(max(start, size - MAX_READ_BYTES))
                return file.read(MAX_READ_BYTES).decode("utf-8", errors="replace").splitlines()
        except OSError:
            return []
