"""Images read from a store that speaks S3's protocol, and answers written to it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from clip_deepfake.detector import Detector
from clip_deepfake.verdicts import Verdict
from deepfake_tools.storage import open_place
from pyarrow import fs

from tests import ROOT
from tests.unit.bulk.conftest import Score

MOTO = ("moto[s3]==5.2.5", "flask", "flask-cors")
SERVE = """
import sys
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
server.start()
print("port", server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with moto and what it needs, apart: its pins are not ours."""
    folder = tmp_path_factory.mktemp("moto")
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-compile", "--retries", "0"]
    done = subprocess.run([*install, "--target", folder, *MOTO], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"moto cannot be installed from PyPI: {done.stderr.strip()[-200:]}")
    return folder


@contextmanager
def serving(moto: Path, **environment: str) -> Iterator[str]:
    """Keeps a server up, and gives its address."""
    with subprocess.Popen(
        [sys.executable, "-S", "-c", SERVE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": str(moto), **environment},
    ) as server:
        assert server.stdout is not None
        port = next(line for line in server.stdout if line.startswith("port "))
        yield f"http://127.0.0.1:{port.split()[1]}"
        server.communicate()


@pytest.fixture(scope="module", autouse=True)
def credentials() -> Iterator[None]:
    """What actors find in their environment: Ray is started after this."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


def test_images_are_read_and_answers_written_by_uri(
    moto: Path, tinted: Path, detector: Detector, score: Score, tmp_path: Path
) -> None:
    paths = sorted(tinted.rglob("clip_0[01]/*.png"))
    with serving(moto) as endpoint:
        options = f"?endpoint_override={endpoint}&region=us-east-1"
        place = open_place(f"s3://bucket{options}&allow_bucket_creation=true")
        place.make_folder()
        for path in paths:
            (place / f"images/{path.relative_to(tinted)}").write(path.read_bytes())
        (place / "images/fake/clip_00/cut.png").write(b"\x89PNG")
        images, scores = (f"s3://bucket/{name}{options}" for name in ("images", "scores"))
        assert score("--input", images, "--output", scores) == 0
        assert score("--input", images, "--output", scores) == 26
        (place / "images/real/clip_00/more.png").write(paths[0].read_bytes())
        assert score("--input", images, "--output", scores, "--resume") == 0
        told = subprocess.run(
            [sys.executable, ROOT / "scripts" / "evaluate.py", scores],
            capture_output=True,
            text=True,
        )
        rows = ds.dataset("bucket/scores", filesystem=place.files).to_table().to_pylist()
        left = [file.path for file in place.files.get_file_info(fs.FileSelector("bucket/scores"))]
    images = f"{len(paths) + 1} images ({len(paths) // 2 + 1} real, {len(paths) // 2} fake"
    assert told.stdout.startswith(images), told.stderr
    found = {row["path"]: row for row in rows}
    assert len(found) == len(rows) == len(paths) + 2
    assert not [path for path in left if "_plan" in path]
    for path, verdict in zip(paths, detector.judge([p.read_bytes() for p in paths]), strict=True):
        row = found[f"s3://bucket/images/{path.relative_to(tinted)}"]
        assert isinstance(verdict, Verdict)
        assert row["margin"] == pytest.approx(verdict.margin, abs=1e-6)
        assert row["true_label"] == ("FAKE" if "/fake/" in str(path) else "REAL")
    assert found["s3://bucket/images/fake/clip_00/cut.png"]["error"] == "not_an_image"


def test_missing_credentials_and_stores_that_are_not_there_are_said(
    moto: Path, score: Score, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # From the first request on, whoever asks must be known.
    with serving(moto, INITIAL_NO_AUTH_ACTION_COUNT="0") as endpoint:
        uri = f"s3://bucket/images?endpoint_override={endpoint}&region=us-east-1"
        assert score("--input", uri, "--output", tmp_path / "a") == 25
    said = capsys.readouterr().err
    assert "s3://bucket/images cannot be read" in said
    assert "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in said
    assert score("--input", uri, "--output", tmp_path / "b") == 25
    assert "is the address right, and reached from here?" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.parquet"))
