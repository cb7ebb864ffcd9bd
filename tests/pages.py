"""What the pages tell a person to type, and a copy of the project to type it in."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests import ROOT
from tests.waiting import wait_until

PAGES = ("README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TYPED = ("sh", "bash")
SHOWN = ("", "json", "properties", "python")
"""Languages of blocks that nobody types into a shell; Python is run by itself."""
STAMPS = (".serving-installed", ".development-installed", ".benchmark-installed")
MARK = "-- page command"


def blocks(page: str) -> list[tuple[str, str]]:
    """Returns the language and the content of each fenced block of a page."""
    return FENCE.findall((ROOT / page).read_text(encoding="utf-8"))


def commands(page: str) -> list[str]:
    """Returns a page's commands in order, each as it stands, comment at its end included.

    A block in Python is one command, which hands it to `python`.
    """
    found = []
    for language, content in blocks(page):
        if language in TYPED:
            found += split_commands(content)
        elif language == "python":
            found.append(f"python - <<'EOF'\n{content}EOF")
    return found


def split_commands(block: str) -> list[str]:
    """Splits what is pasted into a shell into what it runs one after another."""
    found, pending = [], ""
    for line in block.splitlines():
        pending += line
        if pending.endswith("\\") or not _is_whole(pending):
            pending += "\n"
            continue
        if pending.strip() and not pending.startswith("#"):
            found.append(pending)
        pending = ""
    assert not pending, f"a command without its end: {pending}"
    return found


def _is_whole(text: str) -> bool:
    checked = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
    return (checked.returncode, checked.stderr) == (0, "")


def without_comment(command: str) -> str:
    """Returns a command without the comment at its end."""
    return re.sub(r"\s+#\s.*\Z", "", command)


@dataclass(frozen=True)
class Typed:
    """A command that was typed.

    Attributes:
        text: The command.
        status: What it ended with; None where it did not end.
        said: What it printed, errors included.
    """

    text: str
    status: int | None
    said: str


class Workplace:
    """A copy of the project's files in a folder of its own, its environment that of the tests.

    It has the files that git knows or would add, as they are now, rather than those of the last
    commit: a page is tried before it is committed.

    Args:
        folder: Where to; must not exist.
        environment: Variables that commands find besides.

    Attributes:
        folder: The copy.
        temporary: Where its commands put temporary files.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        self._link_environment()
        # TorchServe's pid file and sockets, whose paths must be short.
        self.temporary = Path(tempfile.mkdtemp(prefix="pg-"))
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("TORCHSERVE_")}
        path = f"{folder / '.venv' / 'bin'}{os.pathsep}{inherited['PATH']}"
        self._environ = inherited | {
            "PATH": path,
            "TMPDIR": str(self.temporary),
            "TEMP": str(self.temporary),
            **environment,
        }
        self._environ.pop("PYTHONPATH", None)

    def _link_environment(self) -> None:
        """Makes a .venv that is the tests' own, and counts as installed by make."""
        venv = self.folder / ".venv"
        venv.mkdir()
        for entry in Path(sys.prefix).iterdir():
            if entry.name not in STAMPS:
                (venv / entry.name).symlink_to(entry)
        for stamp in STAMPS:
            (venv / stamp).touch()

    def type(self, texts: Sequence[str], limit_s: float) -> list[Typed]:
        """Types commands into one shell until one fails; ends whatever they have started.

        Args:
            texts: The commands.
            limit_s: Seconds for all of them.

        Returns:
            Those that were typed.
        """
        log = self.folder / "typed.log"
        with log.open("wb") as output:
            shell = subprocess.Popen(
                ["bash", "-c", _script(texts)],
                cwd=self.folder,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                shell.wait(limit_s)
            except subprocess.TimeoutExpired:
                pass  # the command that had no end is told by its missing status
            finally:
                self._end(shell)
        return _typed(texts, log.read_text(encoding="utf-8", errors="replace"))

    def _end(self, shell: "subprocess.Popen[bytes]") -> None:
        """Ends what still runs, whichever process group it has chosen for itself."""
        started = [process for process in psutil.process_iter() if self._is_ours(process)]
        for process in started:
            _signal(process, signal.SIGKILL)
        shell.wait()
        psutil.wait_procs(started, timeout=10)
        wait_until(lambda: not any(map(self._is_ours, psutil.process_iter())))

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get("TMPDIR") == str(self.temporary)
        except psutil.Error:
            return False

    def close(self) -> None:
        """Removes the temporary folder; the copy is its owner's to remove."""
        shutil.rmtree(self.temporary, ignore_errors=True)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def _script(texts: Iterable[str]) -> str:
    lines = ["set -o pipefail"]
    for number, text in enumerate(texts):
        lines += [
            f"echo '{MARK} {number}'",
            text,
            f'status=$?; echo; echo "{MARK} {number} ends with $status"',
            "[ $status -eq 0 ] || exit $status",
        ]
    return "\n".join(lines) + "\n"


def _typed(texts: Sequence[str], log: str) -> list[Typed]:
    found = []
    for number, text in enumerate(texts):
        _, begun, rest = log.partition(f"{MARK} {number}\n")
        if not begun:
            break
        said, ended, after = rest.partition(f"\n{MARK} {number} ends with ")
        found.append(Typed(text, int(after.split("\n")[0]) if ended else None, said))
    return found
