"""Commands in processes of their own that need not wait for the libraries that they import.

A process that has imported them, and has done nothing yet, forks for each command: its child is
as good as a new Python, with its own memory, signals, folder and exit code, and seconds younger.
What is read from the environment while a library is imported is as this process found it.
"""

import json
import os
import resource
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from tests import ROOT
from tests.waiting import wait_until

SOURCES = (ROOT / "scripts", ROOT / "handler", ROOT)


class Running:
    """A command that was started.

    Attributes:
        pid: of its process.
        over: whether its end was waited for.
        out: the file that its standard output goes to.
        err: the file that its standard error goes to.
    """

    def __init__(self, fork: "Fork", words: list[str], out: Path, err: Path) -> None:
        self._fork, self._words = fork, words
        self.pid, self.over = fork.answer(), False
        self.out, self.err = out, err

    def wait_for(self, words: str, file: Path) -> None:
        """Waits until the command has written something to one of its files."""
        wait_until(lambda: file.exists() and words in file.read_text())

    def wait(self, timeout: float = 120) -> "subprocess.CompletedProcess[str]":
        """Waits for its end, which comes by force after so many seconds."""
        limit = threading.Timer(timeout, os.kill, (self.pid, signal.SIGKILL))
        limit.start()
        code, self.over = self._fork.answer(), True
        in_time = limit.is_alive()
        limit.cancel()
        said = self.out.read_text(), self.err.read_text()
        if not in_time:
            raise subprocess.TimeoutExpired(self._words, timeout, *said)
        return subprocess.CompletedProcess(self._words, code, *said)


class Fork:
    """A Python that has imported some modules, and becomes one command after the other.

    Attributes:
        home: the HOME that it had while it imported them.

    Args:
        folder: Where the output of commands goes.
        modules: Names of what it imports beforehand.
        home: Its HOME; this process's where it is None.
    """

    def __init__(self, folder: Path, *modules: str, home: Path | None = None) -> None:
        self._folder, self._count = folder, 0
        self._last: Running | None = None
        self.home = Path.home() if home is None else home
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forking", *modules],
            cwd=ROOT,
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join(map(str, SOURCES)), "HOME": str(self.home)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> "Fork":
        return self

    def __exit__(self, *_: object) -> None:
        self._end_last()
        self._process.communicate()

    def _end_last(self) -> None:
        """Ends what a test that failed has left behind."""
        if self._last is not None and not self._last.over:
            with suppress(ProcessLookupError):
                os.kill(self._last.pid, signal.SIGKILL)
            self._last.wait()

    def answer(self) -> int:
        """Waits for the next number: of the process that was begun, or the code that it ended with.

        Raises:
            ChildProcessError: when there is nobody to give one.
        """
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return int(line)
        raise ChildProcessError(f"what forks for commands has ended: {self._process.wait()}")

    def start(
        self,
        *words: object,
        cwd: Path = ROOT,
        env: Mapping[str, str] = os.environ,
        largest_file: int | None = None,
    ) -> Running:
        """Starts `python WORDS`, a script or `-c` and a program; there is one at a time.

        Args:
            words: What stands after `python`.
            cwd: Where it runs.
            env: Its environment.
            largest_file: In bytes; what goes beyond fails, as on a full disk.
        """
        self._end_last()
        self._count += 1
        out, err = (self._folder / f"{self._count}.{kind}" for kind in ("out", "err"))
        arguments = [str(word) for word in words]
        order = {
            "words": arguments,
            "cwd": str(cwd),
            "env": dict(env),
            "out": str(out),
            "err": str(err),
            "largest_file": largest_file,
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        self._last = Running(self, arguments, out, err)
        return self._last

    def run(self, *words: object, **options: Any) -> "subprocess.CompletedProcess[str]":
        """Starts it likewise, and waits for its end."""
        return self.start(*words, **options).wait()


def _orders() -> dict[str, Any]:
    """Reads orders and forks for each; comes back in the child alone, with the child's order."""
    while line := sys.stdin.readline():
        if (pid := os.fork()) == 0:
            return json.loads(line)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    sys.exit(0)


def _become(order: dict[str, Any]) -> None:
    """Makes this process the one that was ordered, up to the first line of its program."""
    flags = os.O_WRONLY | os.O_CREAT
    files = [
        os.open(os.devnull, os.O_RDONLY),
        os.open(order["out"], flags),
        os.open(order["err"], flags),
    ]
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    if order["largest_file"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["largest_file"],) * 2)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        import_module(name)
    found = _orders()
    _become(found)
    program, *sys.argv = found["words"]
    if program == "-c":
        code, *sys.argv[1:] = sys.argv
        sys.argv[0] = "-c"
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv.insert(0, program)
        runpy.run_path(program, run_name="__main__")
