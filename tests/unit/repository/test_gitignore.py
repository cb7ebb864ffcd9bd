"""What the commands of the pages write into the project's folder is not added by accident."""

import re
import shutil
import subprocess

import pytest

from tests import ROOT
from tests.pages import PAGES, commands, without_comment

WRITING = re.compile(
    r"(?:--(?:output|json|csv|report|timeline|explain|table|plot|export-path)|-keyout|-out"
    r"|(?<![\d<-])>)[ ](?P<path>[\w./-]++)(?!:)"
)
"""Options that name a file or folder to write, and the shell's redirection; no URI."""

BY_DEFAULT = (
    "decision.json",
    "feature_cache/x",
    "head.held_out.csv",
    "head.safetensors",
    "inference_results_huggingface.txt",
    "inference_results_huggingface.txt.partial.jsonl",
    "key_file.json",
    "layernorm/x",
    "logs/model_log.log",
    "lora/x",
    "model_store/a@1.mar",
    "out.totals.csv",
    "results.totals.csv",
    "served.properties",
    "svd/x",
    "full/x",
)
"""What commands write where no option says another place."""


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git_ignores_what_the_pages_commands_write() -> None:
    written = {
        match["path"]
        for page in PAGES
        for command in commands(page)
        for match in WRITING.finditer(without_comment(command))
        if not match["path"].startswith("/")
    }
    assert {"results.json", "report.html", "tuned", "server.pem", "recipe.json"} <= written
    # As files in folders of these names too, since a pattern may end with a slash.
    asked = sorted(written | {f"{path}/x" for path in written} | set(BY_DEFAULT))
    done = subprocess.run(
        ["git", "check-ignore", "--no-index", *asked],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    ignored = set(done.stdout.splitlines())
    missed = [path for path in written if not {path, f"{path}/x"} & ignored]
    missed += [path for path in BY_DEFAULT if path not in ignored]
    assert not missed
