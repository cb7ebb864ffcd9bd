import subprocess
import sys

import pytest

from tests import ROOT

# The platform is what a command sees; everything that is imported before it asks is loaded.
AS_ON_WINDOWS = """
import argparse, io, os, pathlib, runpy, shlex, signal, socket, sys, tempfile
sys.platform = "win32"
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@pytest.mark.parametrize(
    "command",
    [
        "scripts/client.py",
        "scripts/manage.py",
        "scripts/build_mar.py",
        "scripts/train.py",
        "scripts/demo.py",
        "benchmarks/__main__.py",
    ],
)
def test_a_command_on_windows_says_in_one_line_that_it_cannot_run_there(command: str):
    done = subprocess.run(
        [sys.executable, "-c", AS_ON_WINDOWS, str(ROOT / command), "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'scripts'}", "PATH": ""},
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "error: this project needs Linux or macOS; on Windows, use WSL\n"
