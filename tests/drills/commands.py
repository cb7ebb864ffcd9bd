"""client.py and manage.py as their users run them, and client.py watched while it runs."""

import csv
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from deepfake_tools.torchserve.local_server import LocalServer

from tests import ROOT

SCRIPTS = ROOT / "scripts"
CLIENT = SCRIPTS / "client.py"
MANAGE = SCRIPTS / "manage.py"

CONCURRENCY = 16
WATCH_S = 0.1
PATIENCE_S = 180.0


def command_line(
    script: Path, server: LocalServer, *arguments: object, key_file: Path | None = None
) -> list[str]:
    """Returns the words of a command.

    Args:
        script: `client.py` or `manage.py`.
        server: Whom it asks.
        arguments: What it is to do, as its user would type it.
        key_file: Another than the server's own.
    """
    words: list[object] = [sys.executable, script, *arguments]
    words += ["--server", server.inference_url, "--management", server.management_url]
    words += ["--key-file", key_file or server.key_file]
    return [str(word) for word in words]


class ClientRunError(RuntimeError):
    """client.py ended without results."""


@dataclass(frozen=True)
class ClientResult:
    """A finished run.

    Attributes:
        exit_code: Of client.py.
        asked: How many images are in the folder.
        lines: How many its table has, one an image.
        probabilities: `fake_probability` by path, of every image that has one.
        failed: Paths of the others.
        retries: How many requests were repeated.
        seconds: From beginning to end.
    """

    exit_code: int
    asked: int
    lines: int
    probabilities: dict[str, float]
    failed: list[str]
    retries: int
    seconds: float

    @property
    def is_complete(self) -> bool:
        """Whether each image of the folder is in the table, once."""
        found = len(self.probabilities.keys() | set(self.failed))
        return found == self.lines == self.asked


class ClientRun:
    """client.py at work on a folder.

    Args:
        server: Whom it asks.
        name: The served name.
        images: The folder.
        results: A folder for what it writes; it is made.

    Attributes:
        progress: When, as time.monotonic(), it had how many answers.
    """

    def __init__(self, server: LocalServer, name: str, images: Path, results: Path) -> None:
        results.mkdir()
        self._asked = sum(path.is_file() for path in images.rglob("*"))
        self._results = results
        self._said = results / "said.txt"
        words: list[object] = ["--model", name, "--image", images, "--concurrency", CONCURRENCY]
        words += ["--csv", results / "run.csv", "--output", results / "run.txt"]
        self._command = command_line(CLIENT, server, *words)
        self._begun = time.monotonic()
        self.progress: list[tuple[float, int]] = []

    def __enter__(self) -> Self:
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=said)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    @property
    def answers(self) -> int:
        """How many images had an answer when it was last looked at."""
        return self.progress[-1][1] if self.progress else 0

    def watch(self, until: Callable[[], bool] = lambda: False) -> None:
        """Notes the progress until a condition holds, or to the end.

        Raises:
            TimeoutError: There has been no answer for a long time.
        """
        moved = time.monotonic()
        while not self.is_over and not until():
            before = self.answers
            self.progress.append((time.monotonic(), self._answered()))
            if self.answers != before:
                moved = time.monotonic()
            if time.monotonic() - moved > PATIENCE_S:
                raise TimeoutError(f"client.py has had no answer for {PATIENCE_S:g} s")
            time.sleep(WATCH_S)

    def watch_for(self, seconds: float) -> None:
        """Notes the progress for some time, or to the end."""
        deadline = time.monotonic() + seconds
        self.watch(lambda: time.monotonic() >= deadline)

    def result(self) -> ClientResult:
        """Waits for the end and reads what was written.

        Raises:
            ClientRunError: Nothing was; with what client.py said.
        """
        self.watch()
        seconds = time.monotonic() - self._begun
        if not (self._results / "run.csv").exists():
            said = self._said.read_text(encoding="utf-8", errors="replace")
            raise ClientRunError(f"client.py ended with {self._process.returncode}:\n{said}")
        with (self._results / "run.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        text = (self._results / "run.txt").read_text(encoding="utf-8")
        repeated = re.search(r"^Repeated requests: (\d+)$", text, re.MULTILINE)
        return ClientResult(
            exit_code=self._process.returncode,
            asked=self._asked,
            lines=len(rows),
            probabilities={
                row["path"]: float(row["fake_probability"]) for row in rows if not row["error"]
            },
            failed=[row["path"] for row in rows if row["error"]],
            retries=int(repeated[1]) if repeated else 0,
            seconds=seconds,
        )

    def _answered(self) -> int:
        """How many images its journal has an outcome for."""
        journal = self._results / "run.txt.partial.jsonl"
        try:
            return journal.read_bytes().count(b'"place"')
        except FileNotFoundError:
            # Not there yet; or no longer, when the results are written and the process is not gone.
            return self.answers
