"""Training on videos is training on their frames, which stay together."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import train
from deepfake_tools.extras import MissingExtraError
from deepfake_tools.packaging.heads import read_head_file
from deepfake_tools.training.dataset import LabelledImage, read_dataset
from deepfake_tools.training.training_set import find_originals, group_images
from deepfake_tools.training.video_frames import take_frames
from msgspec.structs import replace

from tests.bad_videos import damaged
from tests.tinted_videos import cut_by_opencv, cut_folder, write_videos


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six real and six fake clips."""
    folder = tmp_path_factory.mktemp("videos")
    write_videos(folder, 6)
    return folder


def taken(folder: Path, frames: int, cache: Path) -> tuple[list[LabelledImage], list[str]]:
    said: list[str] = []
    dataset = take_frames(read_dataset(folder, None), frames, cache, said.append)
    return list(dataset.images), said


def test_a_head_trained_on_videos_is_one_trained_on_frames_cut_by_hand(
    videos: Path, small_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut_folder(videos, tmp_path / "cut", 5)
    heads = []
    for data, more in ((videos, ["--frames", "5"]), (tmp_path / "cut", [])):
        output = tmp_path / f"{len(heads)}.safetensors"
        arguments = ["--data", data, "--model", small_clip, "--output", output, *more]
        assert train.main([*map(str, arguments), "--cache", str(tmp_path / "cache")]) == 0
        heads.append(read_head_file(output))
    said = capsys.readouterr()
    assert "12 videos, of which 60 frames are taken" in said.out + said.err
    (by_videos, first), (by_hand, second) = heads
    assert np.array_equal(first["weight"], second["weight"])
    assert np.array_equal(first["bias"], second["bias"])
    data = by_videos.history.data
    # All but the fingerprint of files, which others have packed.
    same = replace(by_hand.history.data, sha256=data.sha256)
    assert by_videos.history == replace(by_hand.history, data=same)
    assert (data.real, data.fake, data.folders) == (30, 30, 12)
    assert by_videos.history.kept_together == "folder"


def test_frames_are_those_of_opencv_and_are_used_again(videos: Path, tmp_path: Path) -> None:
    images, _ = taken(videos, 4, tmp_path)
    assert len(images) == 48
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    for video in sorted(videos.rglob("*.mp4")):
        own = [image for image in images if image.video == video]
        for image, (number, picture) in zip(own, cut_by_opencv(video, 4), strict=True):
            assert image.label == int(video.parent.name == "fake")
            assert int(image.path.stem) == number * 100
            assert np.array_equal(cv2.imread(str(image.path)), picture)
    again, _ = taken(videos, 4, tmp_path)
    assert again == images
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    more, _ = taken(videos, 6, tmp_path)
    assert len(more) == 72


def test_a_video_stays_together_with_what_was_made_of_it(videos: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    clips = sorted(videos.rglob("*.mp4"))
    names = [
        *("original/012.mp4", "original/345.mp4", "real/a.mp4"),
        *("Deepfakes/012_345.mp4", "fake/a.mp4", "fake/b.mp4"),
    ]
    for name, clip in zip(names, clips, strict=False):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(clip.read_bytes())
    images, _ = taken(data, 3, tmp_path / "cache")
    groups: dict[str, set[str]] = {}
    for image, group in zip(images, group_images(images), strict=True):
        assert image.video is not None
        groups.setdefault(group, set()).add(image.video.relative_to(data).as_posix())
    assert sorted(map(sorted, groups.values())) == [
        ["Deepfakes/012_345.mp4", "original/012.mp4"],
        ["fake/a.mp4", "real/a.mp4"],
        ["fake/b.mp4"],
        ["original/345.mp4"],
    ]
    for fake, real in find_originals(images).items():
        assert images[fake].path.name == images[real].path.name


def test_videos_and_images_may_be_mixed_and_listed(videos: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "photo.png"), np.zeros((8, 8, 3), np.uint8))
    clip = videos / "real" / "clip_00.mp4"
    (tmp_path / "labels.csv").write_text(f"path,label\nphoto.png,real\n{clip},fake\n")
    dataset = read_dataset(None, tmp_path / "labels.csv")
    images = take_frames(dataset, 3, tmp_path / "cache", print).images
    assert [(image.video, image.label) for image in images] == [(None, 0), *[(clip, 1)] * 3]
    assert images[0].path == tmp_path / "photo.png"


def test_a_video_that_cannot_be_read_is_named_and_left_out(videos: Path, tmp_path: Path) -> None:
    data = tmp_path / "data" / "real"
    data.mkdir(parents=True)
    (data / "good.mp4").write_bytes((videos / "real" / "clip_00.mp4").read_bytes())
    (data / "text.mp4").write_text("no video")
    images, said = taken(tmp_path / "data", 3, tmp_path / "cache")
    assert [image.video for image in images] == [data / "good.mp4"] * 3
    assert said[0].startswith(f"left out: {data / 'text.mp4'}: it is no video")
    assert said[1:] == ["2 videos, of which 3 frames are taken"]


def test_frames_that_are_missing_are_named_and_tried_again(tmp_path: Path) -> None:
    data = tmp_path / "data" / "real"
    data.mkdir(parents=True)
    clip = damaged(data)
    said = [taken(tmp_path / "data", 72, tmp_path / "cache")[1] for _ in range(2)]
    assert said[0] == said[1]
    assert said[0][0].startswith(f"note: {clip}: no picture can be decoded at 00:01.")
    images, _ = taken(tmp_path / "data", 72, tmp_path / "cache")
    assert 55 < len(images) < 72
    images[0].path.unlink()
    assert taken(tmp_path / "data", 72, tmp_path / "cache")[0] == images


def test_without_what_reads_videos_the_line_says_what_to_install(
    videos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("deepfake_tools.extras.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="training on videos needs av"):
        taken(videos, 3, tmp_path)
    arguments = ["--data", str(videos), "--output", str(tmp_path / "x"), "--cache", str(tmp_path)]
    assert train.main(arguments) == 1
    assert "pip install 'clip-deepfake[videos]'" in capsys.readouterr().err
