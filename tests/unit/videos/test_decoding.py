"""Frames and their times equal those of FFmpeg's command, in every container and codec."""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from deepfake_tools.videos.decoding import Video, VideoError

from tests.ffmpeg import frames_by_ffmpeg, needs_ffmpeg, times_by_ffprobe
from tests.videos import (
    FORMS,
    MANIPULATED,
    SHARP,
    Form,
    constant,
    forged,
    photographs,
    scene,
    write_clip,
)

Clips = Callable[[str], Path]
RGB = npt.NDArray[np.uint8]

PRECISION = 1e-6
"""Seconds that ffprobe's six digits are off."""


def psnr(one: RGB, other: RGB) -> float:
    """Peak signal-to-noise ratio, in decibels."""
    return float(cv2.PSNR(one, np.ascontiguousarray(other)))


def shown_size(name: str) -> tuple[int, int]:
    """Height and width of a form's frames as they are shown."""
    form = FORMS[name]
    return form.size[::-1] if form.turn in (90, 270) else form.size


def assert_same(name: str, mine: RGB, theirs: RGB) -> None:
    """Holds a picture to another version's of FFmpeg.

    H.264, VP8 and VP9 define every bit. MPEG-4 part 2 leaves the rounding of its transform open.
    """
    if FORMS[name].codec != "mpeg4":
        assert np.array_equal(mine, theirs)
        return
    off = np.abs(mine.astype(int) - theirs)
    assert off.max() <= 2
    assert off.mean() < 0.001


def read(path: Path, numbers: Sequence[int], threads: int = 1) -> list[RGB]:
    """The frames' pictures, all of which can be decoded."""
    with Video(str(path), threads) as video:
        found = list(video.read(numbers))
    assert [number for number, _ in found] == list(numbers)
    pictures = [picture for _, picture in found if not isinstance(picture, VideoError)]
    assert len(pictures) == len(numbers)
    return pictures


@needs_ffmpeg
@pytest.mark.parametrize("name", FORMS)
def test_times_are_those_that_ffprobe_tells(name: str, clip: Clips) -> None:
    with Video(str(clip(name))) as video:
        times = video.index.times
        assert video.index.note is None
    expected = times_by_ffprobe(clip(name))
    assert len(times) == len(expected) == len(FORMS[name].clock.ticks)
    assert list(times) == sorted(times)
    if name.startswith("avi"):
        # Which does not say when its frames are shown: ffprobe guesses when the first one is.
        first = expected[0] or 0
        expected = [None if time is None else time - first for time in expected]
    told = [(m, theirs) for m, theirs in zip(times, expected, strict=True) if theirs is not None]
    assert len(told) > len(times) * 0.9
    assert max(abs(mine - theirs) for mine, theirs in told) < PRECISION


@pytest.mark.parametrize("name", FORMS)
def test_times_are_those_at_which_the_frames_were_written(name: str, clip: Clips) -> None:
    with Video(str(clip(name))) as video:
        times = np.array(video.index.times)
    written = np.array(FORMS[name].clock.times)
    # WebM and Matroska count milliseconds.
    np.testing.assert_allclose(times - times[0], written - written[0], atol=0.001)


@needs_ffmpeg
@pytest.mark.parametrize("name", FORMS)
def test_frames_are_those_of_ffmpeg(name: str, clip: Clips) -> None:
    expected = frames_by_ffmpeg(clip(name), *shown_size(name))
    found = read(clip(name), range(len(expected)))
    assert len(found) == len(FORMS[name].clock.ticks)
    for mine, theirs in zip(found, expected, strict=True):
        assert_same(name, mine, theirs)


@needs_ffmpeg
@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("threads", [1, 4])
def test_a_few_frames_are_the_same_as_in_a_row(name: str, threads: int, clip: Clips) -> None:
    expected = frames_by_ffmpeg(clip(name), *shown_size(name))
    last = len(expected) - 1
    choices = [
        *([number] for number in (0, 1, last // 2, last - 1, last)),
        np.linspace(0, last, 5, dtype=int).tolist(),
        [number for number in range(last) if number % 7 in (0, 1, 5)],
    ]
    for numbers in choices:
        for number, picture in zip(numbers, read(clip(name), numbers, threads), strict=True):
            assert_same(name, picture, expected[number])


@pytest.mark.parametrize("name", FORMS)
def test_frames_show_what_was_written(name: str, clip: Clips) -> None:
    form = FORMS[name]
    numbers = range(0, len(form.clock.ticks), 10)
    times = form.clock.times
    written = scene(photographs()["astronaut"], times, form.size)
    turned = {0: 0, 90: -1, 180: 2, 270: 1}[form.turn]
    for number, picture in zip(numbers, read(clip(name), numbers), strict=True):
        original = np.rot90(written[number], turned)
        assert picture.shape == original.shape
        off = psnr(picture, original)
        neighbours = {number - 1, number + 1} & set(range(len(times)))
        assert off > max(24, *(psnr(picture, np.rot90(written[n], turned)) for n in neighbours))


@pytest.mark.parametrize("name", ["mp4", "mkv-variable", "webm-vp9", "avi"])
def test_the_manipulated_stretch_lies_where_the_times_say(name: str, clip: Clips) -> None:
    form = FORMS[name]
    with Video(str(clip(name))) as video:
        times = np.array(video.index.times) - video.index.times[0]
        found = dict(video.read(range(len(times))))
    as_they_were = scene(photographs()["astronaut"], form.clock.times, form.size, manipulated=None)
    for number, time in enumerate(times):
        picture = found[number]
        assert not isinstance(picture, VideoError)
        changed = psnr(picture, as_they_were[number]) < psnr(picture, forged(as_they_were[number]))
        # Its container rounds to milliseconds.
        near = min(abs(time - edge) for edge in MANIPULATED) < 0.001
        assert near or changed == (MANIPULATED[0] <= time < MANIPULATED[1]), time


@pytest.mark.parametrize("name", ["mp4-b-frames", "mkv", "webm-vp9", "avi"])
def test_frames_are_opencvs_too(name: str, clip: Clips) -> None:
    capture = cv2.VideoCapture(str(clip(name)))
    numbers = range(len(FORMS[name].clock.ticks))
    for picture in read(clip(name), numbers):
        there, other = capture.read()
        assert there
        assert np.array_equal(picture, other[..., ::-1])
    assert not capture.read()[0]


@pytest.mark.parametrize("pixels", ["yuv422p", "yuv444p", "yuvj420p", "yuv420p10le"])
def test_other_kinds_of_pixels_are_opencvs_too(pixels: str, tmp_path: Path) -> None:
    form = Form(".mp4", options=SHARP, clock=constant(12, 1), pixels=pixels)
    frames = scene(photographs()["astronaut"], form.clock.times, form.size)
    path = write_clip(tmp_path / "clip.mp4", frames, form)
    capture = cv2.VideoCapture(str(path))
    for picture in read(path, range(12)):
        assert np.array_equal(picture, capture.read()[1][..., ::-1])
