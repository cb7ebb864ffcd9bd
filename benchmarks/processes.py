"""Processes that measure or are measured: how one is started and ended, and what it is asked.

A job is a dataclass, given as JSON in a file; what a process prints is JSON too.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
from clip_deepfake.card import Feature

from benchmarks import ROOT, SCRIPTS
from benchmarks.measurements import BenchmarkError

LAST_LINES = 15
END_LIMIT_S = 10.0

# Nothing that is measured may wait for a network, or tell anybody of this run.
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}


Runtime = Literal["transformers", "OpenVINO float32", "OpenVINO bfloat16"]
"""What a rival computes with."""


@dataclass(frozen=True)
class RivalJob:
    """A checkpoint of transformers to judge with.

    Attributes:
        folder: Checkpoint, processor's settings and head.
        architecture: Name of transformers' class.
        feature: What the head reads.
        normalize: Whether it is brought to length 1 before.
        runtime: What computes: transformers itself, or what OpenVINO makes of it.
        images: The image to judge, where one is.
        port: Where to serve, where that is asked.
        batch_size: The server's.
    """

    folder: str
    architecture: str
    feature: Feature
    normalize: bool
    runtime: Runtime = "transformers"
    images: tuple[str, ...] = ()
    port: int = 0
    batch_size: int = 8


class Child:
    """A process of its own group.

    Attributes:
        pid: Its process id.
    """

    def __init__(self, process: subprocess.Popen[bytes], module: str, errors: Path) -> None:
        self._process = process
        self._module = module
        self._errors = errors
        self.pid = process.pid

    def lines(self) -> Iterator[bytes]:
        """Yields what it prints until it ends.

        Raises:
            BenchmarkError: It failed; with what it last said.
        """
        yield from self._process.stdout or ()
        if self._process.wait():
            raise self._failure()

    def check(self) -> None:
        """Makes sure that it is still there.

        Raises:
            BenchmarkError: It ended; with what it last said.
        """
        if self._process.poll() is not None:
            raise self._failure()

    def _failure(self) -> BenchmarkError:
        text = self._errors.read_text(encoding="utf-8", errors="replace")
        words = "\n".join(text.splitlines()[-LAST_LINES:])
        return BenchmarkError(f"{self._module} ended with {self._process.returncode}:\n{words}")


@contextmanager
def child(module: str, job: object, scratch: Path, code: Path | None = None) -> Iterator[Child]:
    """Starts a process, and ends it and all that it started at the end of the block.

    Args:
        module: A module of this package; it is given the path of its job.
        job: A dataclass, written as JSON into the scratch folder.
        scratch: A folder that nobody else reads, since a job may hold a token.
        code: A folder whose Python code comes before all other.
    """
    given, errors = scratch / f"{module}.json", scratch / f"{module}.err"
    given.write_bytes(msgspec.json.encode(job))
    folders = [str(folder) for folder in (code, ROOT, SCRIPTS) if folder]
    with errors.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.{module}", str(given)],
            env={**os.environ, **OFFLINE, "PYTHONPATH": os.pathsep.join(folders)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stream,
            start_new_session=True,
        )
    try:
        yield Child(process, module, errors)
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(END_LIMIT_S)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()
    if process.stdout:
        process.stdout.close()
