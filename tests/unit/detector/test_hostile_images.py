"""Files that are made to hurt a decoder, each opened in a process whose memory is watched."""

import json
import subprocess
import sys

import pytest

from tests import ROOT
from tests.drills.hostile import HOSTILE, Hostile

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads a process's peak in /proc")

# Of CPU time, which a busy machine leaves alone: the slowest takes about 2 s.
CPU_LIMIT_S = 12.0

WATCHED = """
import json, resource, sys, time
from pathlib import Path
from clip_deepfake.errors import DetectorError
from clip_deepfake.images import decode
from tests.drills.hostile import HOSTILE

def memory(key):
    (line,) = [l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(key)]
    return int(line.split()[1]) / 1024

for hostile in HOSTILE:
    data = hostile.make()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, begun = memory("VmRSS"), time.process_time()
    try:
        decode(data, 50_000_000)
        outcome = "judged"
    except DetectorError as error:
        outcome = error.code
    seconds = time.process_time() - begun
    growth = memory("VmHWM") - before
    print(json.dumps([hostile.name, len(data), outcome, seconds, growth]), flush=True)
"""


@pytest.fixture(scope="module")
def opened() -> dict[str, tuple[int, str, float, float]]:
    """Size in bytes, outcome, seconds and growth in MiB of each."""
    result = subprocess.run(
        [sys.executable, "-c", WATCHED],
        env={"PYTHONPATH": f"{ROOT / 'handler'}:{ROOT / 'scripts'}"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    return {name: tuple(rest) for name, *rest in lines}


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
def test_a_hostile_file_costs_little_and_has_the_right_outcome(
    hostile: Hostile, opened: dict[str, tuple[int, str, float, float]]
) -> None:
    size, outcome, seconds, growth = opened[hostile.name]
    assert size < 32 << 20
    assert outcome in hostile.outcomes
    assert seconds < CPU_LIMIT_S
    assert growth < hostile.growth_mb
