"""What a landmark predictor's file may do to whoever reads it: take no more than a little."""

import os
import sys
from pathlib import Path

import pytest
from clip_deepfake.errors import LoadError
from deepfake_tools import predictor_file
from deepfake_tools.predictor_file import MAX_BYTES, count_points


def test_a_predictors_points_are_counted(landmarks: Path) -> None:
    assert count_points(landmarks) == 81


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds a process's memory")
@pytest.mark.parametrize("trees", [1 << 28, 1 << 40])
def test_a_file_that_asks_for_all_memory_gets_little(
    landmarks: Path, tmp_path: Path, trees: int
) -> None:
    """Left alone, dlib takes 6 GB for the first of these files of 2 MB."""
    content = landmarks.read_bytes()
    at = after_the_shape(content)
    (tmp_path / "greedy.dat").write_bytes(content[:at] + integer(trees) + content[at + 2 :])
    with pytest.raises(LoadError, match=r"greedy.dat is not a dlib shape predictor.*bad_alloc"):
        count_points(tmp_path / "greedy.dat")


def integer(value: int) -> bytes:
    """As dlib writes it: the number of bytes, then these, the lowest first."""
    size = (value.bit_length() + 7) // 8
    return bytes([size]) + value.to_bytes(size, "little")


def after_the_shape(content: bytes) -> int:
    """Where the number of cascades stands: after the version and a column of 162 numbers."""
    at = 0
    for _ in range(3 + 2 * 162):
        at += 1 + (content[at] & 0x0F)
    assert content[at] == 1
    return at


def test_what_is_too_large_to_be_one_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "film.dat"
    path.touch()
    os.truncate(path, MAX_BYTES + 1)
    with pytest.raises(LoadError, match=f"film.dat has {MAX_BYTES + 1} bytes"):
        count_points(path)


@pytest.mark.parametrize(
    ("does", "reason"),
    [("kill -SEGV $$", r"dlib crashed on it \(signal 11\)"), ("exec sleep 60", "within 0.2 s")],
)
def test_a_crash_or_a_standstill_is_not_ours(
    landmarks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, reason: str
) -> None:
    (tmp_path / "python").write_text(f"#!/bin/sh\n{does}\n")
    (tmp_path / "python").chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(predictor_file, "LIMIT_S", 0.2 if "sleep" in does else 60.0)
    with pytest.raises(LoadError, match=reason):
        count_points(landmarks)
