import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
# The platform is what a command sees; everything that is imported before it asks is loaded.
AS_ON_WINDOWS = """
import argparse, io, os, pathlib, runpy, shlex, signal, socket, sys, tempfile
sys.platform = "win32"
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@pytest.mark.parametrize(
    "command",
    ["client.py", "manage.py", "build_mar.py", "train_head.py", "demo.py", "benchmark.py"],
)
def test_a_command_on_windows_says_in_one_line_that_it_cannot_run_there(command: str):
    done = subprocess.run(
        [sys.executable, "-c", AS_ON_WINDOWS, str(SCRIPTS / command), "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": str(SCRIPTS), "PATH": ""},
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "error: this project needs Linux or macOS; on Windows, use WSL\n"
