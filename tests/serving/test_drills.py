"""Every drill in its short form, with a small encoder: nothing goes wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.serving,
    pytest.mark.skipif(sys.platform != "linux", reason="the drills read memory in /proc"),
]

DRILLS = {
    "kill": ["0 wrongly", "back to full rate after", "stopped with SIGSTOP"],
    "swaps": ["2 swaps: ", "0 failed, 0 by the wrong version", "two swaps to version 2 at once"],
    "mutants": ["480 damaged images", "statuses: ", "verdicts of"],
    "soak": ["0 failed", "worker: ", "Java: "],
    "security": ["cases, 0 of them otherwise than they must be"],
    "stop": ["a bare SIGTERM: ", "0 of them lost"],
}
"""What the figures of each have to say."""


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[str]]]:
    report = tmp_path_factory.mktemp("drills") / "drills.json"
    command = [sys.executable, "-m", "tests.drills", "--short", "--json", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    print(done.stdout, done.stderr)
    assert report.exists(), done.stderr
    found = json.loads(report.read_text())
    assert done.returncode == any(finding["faults"] for finding in found.values())
    return found


@pytest.mark.parametrize("drill", DRILLS)
def test_nothing_goes_wrong(findings: dict[str, dict[str, list[str]]], drill: str) -> None:
    finding = findings[drill]
    assert finding["faults"] == []
    text = "\n".join(finding["figures"])
    for words in DRILLS[drill]:
        assert words in text


def test_the_table_has_every_kind_of_case(findings: dict[str, dict[str, list[str]]]) -> None:
    _, header, *lines = findings["security"]["figures"]
    begins = [header.index(name) for name in ("case", "request", "outcome", "logged")]
    # A cell goes on in the next line of its own column.
    text = " ".join(
        " ".join(" ".join(line[begin:end].split()) for line in lines)
        for begin, end in zip(begins, [*begins[1:], None], strict=True)
    )
    text = " ".join(text.split())
    for words in (
        "POST /predictions/small, inference", "GET /token?type=inference", "an expired token",
        "listening on 127.0.0.1", "registering from an address", "registering from above",
        "a directory elsewhere", "a name above its folder", "a link inside", "a bomb inside",
        "altered weights, past manage.py", "others can read", "chmod 600", "found in none",
        "PNG of 100 megapixels", "clip_deepfake load failed", "InvalidKeyException",
    ):  # fmt: skip
        assert words in text, words


def test_a_drill_that_is_none_is_named(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.drills", "earthquake"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "there is no drill 'earthquake'; there are kill, swaps" in done.stderr
