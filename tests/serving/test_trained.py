"""A head from images to verdicts: trained, built and served by the commands that a person runs."""

import json
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import requests
from deepfake_tools.packaging.heads import read_head_file
from deepfake_tools.torchserve.local_server import LocalServer

from tests import ROOT
from tests.tinted import labels_of, reference_probabilities, write_images

pytestmark = pytest.mark.serving


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, str(ROOT / "scripts" / script), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_served_probabilities_are_scikit_learns(
    small_clip: Path, store: Path, start_server: Callable[..., LocalServer], tmp_path: Path
) -> None:
    paths = sorted(write_images(tmp_path / "data"))
    head_file = tmp_path / "tinted.safetensors"
    arguments = ("--model", small_clip, "--data", tmp_path / "data", "--output", head_file)
    said = run("train.py", *arguments, "--cache", tmp_path / "cache")
    head, _ = read_head_file(head_file)
    assert head.history.held_out.auc >= 0.95
    assert f"AUC {head.history.held_out.auc:.4f}" in said

    run("build_mar.py", "--model", small_clip, "--weights", head_file, "--export-path", store)
    server = start_server()
    server.wait_ready(small_clip.name)
    token = json.loads(server.key_file.read_text())["inference"]["key"]
    verdicts = [
        requests.post(
            f"{server.inference_url}/predictions/{small_clip.name}",
            data=path.read_bytes(),
            headers={"Authorization": f"Bearer {token}", "Content-Type": "image/png"},
            timeout=60,
        ).json()
        for path in paths
    ]
    found = np.array([verdict["fake_probability"] for verdict in verdicts])
    expected = reference_probabilities(small_clip, paths, head.history.strength)
    assert np.abs(found - expected).max() < 1e-4
    assert [v["prediction"] for v in verdicts] == list(found > head.head.threshold)
    assert np.mean((found > head.head.threshold) == labels_of(paths)) > 0.9
    detector = verdicts[0]["detector"]
    assert detector["head"] == "trained"
    assert detector["head_file"] == "tinted.safetensors"
    assert detector["head_sha256"] == sha256(head_file.read_bytes()).hexdigest()
