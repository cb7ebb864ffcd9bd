"""An archive that the command torch-model-archiver packed of an archive's parts, served."""

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from clip_deepfake.loading import load_detector
from clip_deepfake.verdicts import Verdict
from deepfake_tools.inspection import ArchiveError, inspect_archive
from deepfake_tools.torchserve.local_server import LocalServer

from tests.building import Builder, unpack

pytestmark = pytest.mark.serving

ARCHIVER = Path(sys.executable).with_name("torch-model-archiver")


def pack_by_hand(parts: Path, store: Path) -> Path:
    """As docs/packaging.md shows."""
    shutil.rmtree(parts / "MAR-INF")
    subprocess.run(
        [
            *(ARCHIVER, "--model-name", "small", "--version", "1"),
            *("--handler", parts / "deepfake_handler.py"),
            *("--config-file", parts / "model-config.yaml"),
            *("--extra-files", parts, "--archive-format", "zip-store", "--export-path", store),
        ],
        check=True,
        timeout=60,
    )
    return store / "small.mar"


def test_it_serves_the_same(
    small_clip: Path,
    tmp_path: Path,
    store: Path,
    start_server: Callable[..., LocalServer],
    examples: list[Path],
) -> None:
    built = Builder(tmp_path / "built")("--model", small_clip, "--served-name", "small")
    detector = load_detector(unpack(built, tmp_path / "own"))
    packed = pack_by_hand(unpack(built, tmp_path / "parts"), store)
    with zipfile.ZipFile(packed) as one, zipfile.ZipFile(built.path) as other:
        contents = [{name: z.read(name) for name in z.namelist()} for z in (one, other)]
    for content in contents:
        del content["MAR-INF/MANIFEST.json"]
    assert contents[0] == contents[1]

    server = start_server()
    server.wait_ready("small")
    token = json.loads(server.key_file.read_text())["inference"]["key"]
    for image in examples:
        answer = requests.post(
            f"{server.inference_url}/predictions/small",
            data=image.read_bytes(),
            headers={"Authorization": f"Bearer {token}"},
            timeout=60,
        )
        assert answer.status_code == 200, answer.text
        (expected,) = detector.judge([image.read_bytes()])
        assert isinstance(expected, Verdict)
        assert answer.json()["logits"] == pytest.approx(list(expected.logits), abs=1e-5)
        assert answer.json()["label"] == expected.label
        assert answer.json()["detector"]["version"] == "1"

    # It has times, and sizes in another place: no server is given it by manage.py.
    with pytest.raises(ArchiveError, match=r"NAME@VERSION\.mar"):
        inspect_archive(packed)
    renamed = packed.rename(store / "small@1.mar")
    with pytest.raises(ArchiveError, match=r"another form.*torchserve --start --models"):
        inspect_archive(renamed)
