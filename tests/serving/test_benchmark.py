"""The command as a person runs it, on an archive of a few layers, for half a second a cell."""

import json
import subprocess
import sys
from pathlib import Path

import build_mar
import psutil
import pytest
from deepfake_tools.packaging.builder import build
from PIL import Image

from benchmarks.costs import read_rates
from tests import ROOT

pytestmark = pytest.mark.serving


def test_an_archive_is_measured_in_all_ways_and_nothing_stays_behind(
    small_clip: Path, tmp_path: Path
):
    store = ["--served-name", "small", "--export-path", str(tmp_path)]
    options = build_mar.parse_arguments(["--model", str(small_clip), *store])
    archive = build(options, lambda _: None).path
    command = [sys.executable, "-m", "benchmarks", "--archive", str(archive), "--profile"]
    command += ["--clients", "1,4", "--rounds", "1", "--seconds", "0.5"]
    command += ["--json", str(tmp_path / "b.json"), "--plot", str(tmp_path / "b.png")]

    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=240, check=False, cwd=ROOT
    )

    assert ran.returncode == 0, ran.stderr
    found = json.loads((tmp_path / "b.json").read_text())
    measured = {(one["contender"], one["way"], one["size"]) for one in found["medians"]}
    assert measured == {
        *(("float32", "engine alone", size) for size in (1, 2, 4, 8)),
        ("float32", "one process", 8),
        *(("float32", "served", clients) for clients in (1, 4)),
    }
    assert all(one["images_per_s"] > 0 for one in found["medians"])
    assert found["differences"]["float32"] < 1e-3
    for time in found["profile"]:
        parts = time["wait_ms"] + time["transport_ms"] + time["worker_ms"]
        assert parts == pytest.approx(time["total_ms"])
    assert "4 clients, against one process" in ran.stdout
    (rate,) = read_rates(tmp_path / "b.json")
    rates = {(one["way"], one["size"]): one["images_per_s"] for one in found["medians"]}
    assert rate.images_per_s == rates["one process", 8]
    with Image.open(tmp_path / "b.png") as image:
        assert image.format == "PNG"
    assert not [process for process in psutil.process_iter() if _is_of(process, str(tmp_path))]


def _is_of(process: psutil.Process, folder: str) -> bool:
    try:
        return any(folder in word for word in process.cmdline())
    except psutil.Error:
        return False
