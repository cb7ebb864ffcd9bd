"""score.py on a Ray of this machine: its rows are an in-process detector's, whatever the input."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from clip_deepfake.detector import Detector
from clip_deepfake.verdicts import Verdict
from deepfake_tools.bulk.dataset import Provenance, make_table, to_parquet
from sklearn.metrics import roc_auc_score

from tests.tinted_videos import write_videos
from tests.unit.bulk.conftest import Score, rows_of, write_parquet

BROKEN = {
    "real/broken/empty.png": b"",
    "real/broken/words.jpg": b"no image at all",
    "fake/broken/cut.jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00",
}


@pytest.fixture(scope="module")
def photos(tinted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tinted images, three broken ones and one that is larger than the card allows."""
    folder = tmp_path_factory.mktemp("photos") / "data"
    shutil.copytree(tinted, folder)
    for name, content in BROKEN.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    wide = cv2.imencode(".png", np.zeros((7200, 7200), np.uint8))[1].tobytes()
    (folder / "fake" / "broken" / "wide.png").write_bytes(wide)
    return folder


@pytest.fixture(scope="module")
def expected(photos: Path, detector: Detector) -> dict[str, dict[str, Any]]:
    """What the detector says in this process, by path."""
    paths = sorted(photos.rglob("*.*g"))
    results = detector.judge([path.read_bytes() for path in paths])
    return {
        str(path): vars(result)
        if isinstance(result, Verdict)
        else {"error": result.code, "margin": None, "fake_probability": None, "label": None}
        for path, result in zip(paths, results, strict=True)
    }


def check(rows: dict[str, dict[str, Any]], expected: dict[str, dict[str, Any]]) -> None:
    assert rows.keys() == expected.keys()
    for path, row in rows.items():
        wanted = expected[path]
        assert row["error"] == wanted.get("error")
        assert row["label"] == wanted["label"]
        assert row["decision"] is row["faces"] is None
        for name in ("margin", "fake_probability"):
            assert row[name] == pytest.approx(wanted[name], abs=1e-6)
        assert row["true_label"] == ("FAKE" if "/fake/" in path else "REAL")


def test_a_folders_rows_are_the_detectors(
    score: Score,
    photos: Path,
    expected: dict[str, dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert score("--input", photos, "--output", tmp_path / "scores") == 0
    rows = rows_of(tmp_path / "scores")
    check(rows, expected)
    codes = {Path(path).name: row["error"] for path, row in rows.items() if row["error"]}
    assert codes == {
        "empty.png": "empty_image",
        "words.jpg": "not_an_image",
        "cut.jpg": "truncated_image",
        "wide.png": "image_too_large",
    }
    said = capsys.readouterr()
    judged = [row for row in rows.values() if row["error"] is None]
    auc = roc_auc_score([r["true_label"] == "FAKE" for r in judged], [r["margin"] for r in judged])
    assert f"AUC (Area Under ROC Curve): {auc:.4f}\n" in said.out
    assert "120 images (60 real, 60 fake, 0 without a label), 4 failed" in said.out
    assert "head is untrained" in said.err
    assert not (tmp_path / "scores" / "_plan").exists()


def test_bytes_in_parquet_have_the_same_rows(
    score: Score, photos: Path, expected: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "shards").mkdir()
    paths = list(expected)
    for number in range(2):
        some = paths[number::2]
        columns = {
            "image": [{"bytes": Path(path).read_bytes(), "path": None} for path in some],
            "name": some,
            "truth": ["fake" if "/fake/" in path else "real" for path in some],
        }
        write_parquet(tmp_path / "shards" / f"{number}.parquet", columns, group=70)
    columns_of = ("--column", "image", "--path-column", "name", "--label-column", "truth")
    output = tmp_path / "scores"
    assert score("--input", tmp_path / "shards", *columns_of, "--output", output) == 0
    check(rows_of(output), expected)


def test_frames_of_videos_are_rows(score: Score, detector: Detector, tmp_path: Path) -> None:
    videos = write_videos(tmp_path / "clips", 1)
    code = score("--input", tmp_path / "clips", "--frames", 4, "--output", tmp_path / "scores")
    assert code == 0
    rows = rows_of(tmp_path / "scores")
    times = ("00:00.000", "00:00.600", "00:01.200", "00:01.900")
    assert rows.keys() == {f"{video}@{time}" for video in videos for time in times}
    capture = cv2.VideoCapture(str(videos[1]))
    (verdict,) = detector.judge([cv2.imencode(".png", capture.read()[1])[1].tobytes()])
    assert isinstance(verdict, Verdict)
    assert rows[f"{videos[1]}@00:00.000"]["margin"] == pytest.approx(verdict.margin, abs=1e-6)


def test_resume_asks_about_what_has_no_answer_alone(
    score: Score, photos: Path, expected: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    output = tmp_path / "scores"
    assert score("--input", photos / "*" / "clip_0[01]", "--output", output) == 0
    assert len(rows_of(output)) == 40
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    assert score("--input", photos, "--output", output) == 26
    # As after a node that ran out of memory.
    schema = pq.read_schema(output / "part-0001-000000.parquet")
    origin = Provenance.of(schema)
    assert origin is not None
    path = str(photos / "fake/clip_02/020.png")
    passing = make_table([{"path": path, "error": "internal_error"}], origin)
    (output / "part-0001-000999.parquet").write_bytes(to_parquet(passing))
    assert score("--input", photos, "--output", output, "--resume") == 0
    check(rows_of(output), expected)
    assert all((output / name).read_bytes() == content for name, content in before.items())
    parts = {path.name for path in output.iterdir()}
    assert score("--input", photos, "--output", output, "--resume") == 0
    assert {path.name for path in output.iterdir()} == parts


def test_another_archives_answers_are_refused(
    score: Score,
    other_archive: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("--input", photos / "real" / "clip_00", "--output", tmp_path / "scores")
    assert score(*words) == 0
    assert score(*words, "--resume", archive=other_archive) == 26
    said = capsys.readouterr().err
    assert "version 1, archive " in said
    assert "version 7, archive " in said
    assert len(rows_of(tmp_path / "scores")) == 10


def test_an_archive_that_fails_its_self_test_ends_the_run_with_the_nodes_name(
    score: Score, archive: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / archive.name
    with zipfile.ZipFile(archive) as whole, zipfile.ZipFile(damaged, "w") as copy:
        for entry in whole.infolist():
            data = whole.read(entry)
            if entry.filename == "detector.json":
                card = json.loads(data)
                card["self_test"]["logits"][0] += 1
                data = json.dumps(card).encode()
            copy.writestr(entry, data)
    code = score("--input", photos, "--output", tmp_path / "scores", archive=damaged)
    said = capsys.readouterr().err
    assert code == 15, said
    assert "the archive cannot be used on node " in said
    assert "self-test failed" in said
    assert "124 images have no answer: the same command with --resume goes on" in said


def test_failures_beyond_what_is_tolerated_are_in_the_exit_code(
    score: Score, photos: Path, tmp_path: Path
) -> None:
    words = ("--input", photos / "real", "--tolerate")
    assert score(*words, 0.1, "--output", tmp_path / "a") == 0
    assert score(*words, 0.001, "--output", tmp_path / "b") == 1
