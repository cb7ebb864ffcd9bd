"""The demo interrupted, or asked about other images; test_pages.py runs it as the README has it."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import psutil
import pytest

from tests import ROOT

pytestmark = pytest.mark.serving

PREDICTION = re.compile(r"^(\S+): Prediction: (REAL|FAKE) \(confidence: [01]\.\d{4}\)$", re.M)


class Demo:
    """`scripts/demo.py` started in an empty folder, with temporary files in another."""

    def __init__(self, folder: Path) -> None:
        self.here = folder / "here"
        self.temporary = folder / "t"
        self.here.mkdir()
        self.temporary.mkdir()
        self.process = subprocess.Popen(
            [sys.executable, "-u", str(ROOT / "scripts" / "demo.py")],
            cwd=self.here,
            env={**os.environ, "TMPDIR": str(self.temporary)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def output(self) -> TextIO:
        """What it prints, as it prints it."""
        assert self.process.stdout
        return self.process.stdout

    def leftovers(self) -> list[str]:
        """Return the files and processes that it has left."""
        files = [str(path) for folder in (self.here, self.temporary) for path in folder.iterdir()]
        return files + [
            str(process)
            for process in psutil.process_iter()
            if str(self.temporary) in _environment(process).get("TMPDIR", "")
        ]


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


@pytest.fixture
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    started = Demo(tmp_path_factory.mktemp("d"))
    yield started
    if started.process.poll() is None:
        started.process.terminate()
        started.process.wait()


def test_a_model_of_ones_own_is_asked_under_a_head_that_is_said_to_be_untrained(
    tmp_path: Path, small_clip: Path, examples: list[Path]
) -> None:
    for images in ([], examples[:2]):
        command = [sys.executable, str(ROOT / "scripts" / "demo.py"), "--model", str(small_clip)]
        command += ["--image", *map(str, images)] if images else []
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        names = [name for name, _ in PREDICTION.findall(run.stdout)]
        assert names == [path.name for path in images or sorted(examples)]
        assert "training" not in run.stdout
        assert "under a head that is NOT TRAINED" in run.stdout
        assert "head was never trained: these verdicts are chance" in run.stdout
        assert "this detector's head is untrained" in run.stderr


def test_photographs_of_ones_own_are_not_judged_by_a_head_that_knows_five(
    tmp_path: Path, examples: list[Path]
) -> None:
    asked = examples[:2]
    command = [sys.executable, str(ROOT / "scripts" / "demo.py"), "--image", *map(str, asked)]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [name for name, _ in PREDICTION.findall(run.stdout)] == [path.name for path in asked]
    assert "training" not in run.stdout
    assert "verdicts are chance" in run.stdout


@pytest.mark.parametrize(
    ("step", "number"),
    [
        ("training", signal.SIGINT),
        ("building", signal.SIGTERM),
        ("starting", signal.SIGINT),
        ("asking", signal.SIGTERM),
    ],
)
def test_an_interrupted_demo_leaves_nothing(demo: Demo, step: str, number: signal.Signals) -> None:
    for line in demo.output:
        if line.startswith(f"-- {step}"):
            demo.process.send_signal(number)
            demo.process.send_signal(number)  # an impatient second one changes nothing
            break
    said = demo.output.read()
    assert demo.process.wait() == 130, said
    assert "Traceback" not in said
    assert not demo.leftovers()


def test_a_photograph_that_is_not_there_is_said_before_anything_is_built(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "demo.py"), "--image", "nowhere.jpg"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "there is no file nowhere.jpg" in run.stderr
    assert not run.stdout
