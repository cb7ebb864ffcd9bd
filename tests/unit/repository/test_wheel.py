"""What `pip install` puts down: a wheel has every file of the packages, templates included."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests import ROOT

PACKAGES = {"clip_deepfake": "handler", "deepfake_tools": "scripts"}


def test_a_wheel_has_every_file_of_the_packages(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", reason="the wheel is built without a download")
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    expected = set()
    for package, folder in PACKAGES.items():
        shutil.copytree(ROOT / folder / package, source / folder / package, ignore=ignored)
        expected |= {
            path.relative_to(source / folder).as_posix()
            for path in (source / folder / package).rglob("*")
            if path.is_file()
        }
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    build = ["-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", "out"]
    subprocess.run([sys.executable, *build, "./source"], cwd=tmp_path, check=True)
    (wheel,) = (tmp_path / "out").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == expected
    assert "deepfake_tools/evaluation/report.html.jinja" in packed
