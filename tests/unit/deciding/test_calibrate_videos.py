"""calibrate.py on videos: each counts as one image, the frame in its middle."""

import shutil
from pathlib import Path

import calibrate
import cv2
import pytest
from clip_deepfake.decision import parse_decision
from deepfake_tools.deciding.selection import select

from tests.building import Builder
from tests.tinted_videos import write_videos


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight real and eight fake clips."""
    folder = tmp_path_factory.mktemp("videos")
    write_videos(folder, 8)
    return folder


def decide(archive: Path, folder: Path, output: Path) -> bytes:
    words = ["--archive", archive, "--reals", folder / "real", "--fakes", folder / "fake"]
    words += ["--output", output, "--false-alarms", "0.3"]
    assert calibrate.main([str(word) for word in words]) == 0
    return output.read_bytes()


def test_a_decision_by_videos_is_one_by_their_middle_frames(
    videos: Path, small_clip: Path, tmp_path: Path
) -> None:
    archive = Builder(tmp_path / "store")("--model", small_clip).path
    for video in videos.rglob("*.mp4"):
        capture, frames = cv2.VideoCapture(str(video)), []
        while (read := capture.read())[0]:
            frames.append(read[1])
        image = tmp_path / "middle" / video.relative_to(videos).with_suffix(".png")
        image.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(image), frames[len(frames) // 2])
    found = parse_decision(decide(archive, videos, tmp_path / "a.json"))
    expected = parse_decision(decide(archive, tmp_path / "middle", tmp_path / "b.json"))
    assert found.margins == pytest.approx(expected.margins, abs=1e-6)
    assert found.fake_above == pytest.approx(expected.fake_above, abs=1e-6)
    assert found.fakes is not None
    assert expected.fakes is not None
    assert found.fakes.missed == expected.fakes.missed
    assert (found.reals.images, found.fakes.images) == (8, 8)


def test_each_video_counts_once_and_a_broken_one_not(videos: Path, tmp_path: Path) -> None:
    reals = tmp_path / "reals"
    shutil.copytree(videos / "real", reals)
    shutil.copy(reals / "clip_00.mp4", reals / "copy.mp4")
    (reals / "broken.mp4").write_bytes(b"broken")
    cv2.imwrite(str(reals / "photo.png"), cv2.imread("examples/cat.jpg"))
    for one_per in ("auto", "image"):
        found = select(reals, 0, one_per)
        assert len(found.chosen) == 9
        assert (found.repeated, found.unreadable, found.videos) == (1, 1, 0)
        frames = [one.image.frame for one in found.chosen if one.image.frame is not None]
        assert {(frame.number, frame.time) for frame in frames} == {(10, 1.0)}
