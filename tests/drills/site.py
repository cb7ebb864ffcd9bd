"""A running server in, what it answers to a forbidden request, and what it logs of it, out."""

import os
import re
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import requests
from deepfake_tools.torchserve.local_server import LocalServer

from tests.drills.commands import SCRIPTS, command_line

LOG_FILES = ("access_log.log", "ts_log.log", "model_log.log")
LOG_LIMIT_S = 3.0
TIME_LIMIT_S = 60.0
SHOWN = 170
SHOWN_OF_LOGS = 84
NOTHING = "nothing"

STAMP = re.compile(r"^\S+ (?:\[\w+ *\] \S+ \S+ )?- (?:/[\d.:]+ )?")
"""What each line of TorchServe's logs begins with: time, level, thread and logger, or the peer."""


@dataclass(frozen=True)
class Row:
    """One thing that is forbidden, and what became of it.

    Attributes:
        case: What was tried.
        request: How.
        outcome: Status or exit code, in words.
        logged: The line that the server wrote about it, or `NOTHING`.
        is_right: Whether that is as it must be.
    """

    case: str
    request: str
    outcome: str
    logged: str
    is_right: bool


class Site:
    """A server, its commands and its logs.

    Args:
        server: The server.
        store: Its store.
        ca: Its certificate, where it speaks TLS.
    """

    def __init__(self, server: LocalServer, store: Path, ca: Path | None = None) -> None:
        self.server = server
        self.store = store
        self._ca = ca

    def ask(
        self,
        method: str,
        url: str,
        token: str | None,
        *,
        params: Mapping[str, str] | None = None,
        data: bytes = b"",
    ) -> requests.Response:
        """Makes a request; an image goes as it is."""
        headers = {"Content-Type": "application/octet-stream"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        verify = True if self._ca is None else str(self._ca)
        return requests.request(
            method,
            url,
            params=params,
            headers=headers,
            data=data,
            verify=verify,
            timeout=TIME_LIMIT_S,
        )

    def run(
        self, script: str, *arguments: object, key_file: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs client.py or manage.py against the server, as its user would."""
        more: tuple[object, ...] = ()
        if script == "manage.py":
            more = ("--model-store", self.store, "--logs", self.server.logs)
        return subprocess.run(
            command_line(SCRIPTS / script, self.server, *arguments, *more, key_file=key_file),
            env={**os.environ, "REQUESTS_CA_BUNDLE": ""},
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT_S,
            check=False,
        )


class NewLines:
    """What a server logs from now on.

    Args:
        logs: Its log folder.
    """

    def __init__(self, logs: Path) -> None:
        self._paths = [logs / name for name in LOG_FILES]
        self._begins = [_size(path) for path in self._paths]

    def first(self, pattern: str) -> str:
        """Waits a moment for a line with the pattern, and returns it without its time."""
        deadline = time.monotonic() + LOG_LIMIT_S
        while True:
            for line in self._lines():
                if re.search(pattern, line):
                    return shortened(STAMP.sub("", line), SHOWN_OF_LOGS)
            if time.monotonic() > deadline:
                return NOTHING
            time.sleep(0.05)

    def _lines(self) -> list[str]:
        lines = []
        for path, begin in zip(self._paths, self._begins, strict=True):
            if path.exists():
                lines += path.read_bytes()[begin:].decode(errors="replace").splitlines()
        return lines


def shortened(text: str, most: int = SHOWN) -> str:
    """Returns the text in one line, of so many characters at most."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
