"""A worker's work in a process that can reach nothing, and what it did besides."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_JUDGE = """
import json, os, sys
from pathlib import Path

forbidden = []

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.bind"):
        forbidden.append([event, str(arguments[1:])])
    if event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
        forbidden.append(["write", str(arguments[0])])

sys.addaudithook(watch)
sys.path.insert(0, sys.argv[1])
from clip_deepfake.loading import load_detector
image, answers = Path(sys.argv[2]).read_bytes(), []
for archive in (sys.argv[1], *sys.argv[3:]):
    detector = load_detector(Path(archive))
    (verdict,) = detector.judge([image])
    answers.append([detector.engine.name, verdict.fake_probability])
print(json.dumps({
    "answers": answers,
    "modules": sorted(name for name, module in sys.modules.items() if module),
    "forbidden": forbidden,
}))
"""


def judge_cut_off(image: Path, home: Path, *archives: Path) -> dict[str, Any]:
    """Loads unpacked archives without a network, and judges an image with each.

    Args:
        image: a file.
        home: becomes HOME.
        archives: their folders; the code of the first is imported.

    Returns:
        ``answers``, engine and ``fake_probability`` for each archive, the names of the ``modules``
        that were imported, and what is ``forbidden``: connections that were tried and files that
        were opened for writing.
    """
    first, *others = map(str, archives)
    command = [sys.executable, "-B", "-c", _JUDGE, first, str(image), *others]
    isolated = ["unshare", "--net", "--map-root-user"]
    if subprocess.run([*isolated, "true"], check=False).returncode == 0:
        command = isolated + command
    result = subprocess.run(
        command,
        env={"HOME": str(home), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found
