"""Which frames are chosen, and how their times are written."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from deepfake_tools.videos.sampling import FrameChoice, clock

from tests.videos import variable


def times_of(count: int, rate: float = 25) -> list[float]:
    """Of so many frames at a constant rate."""
    return [number / rate for number in range(count)]


@pytest.mark.parametrize("frames", [1, 2, 3, 7, 8, 16, 31, 32, 33, 100])
def test_frames_by_number_are_deepfakebenchs(frames: int) -> None:
    for count in [*range(frames, frames + 300), 1000, 4999, 30_001, 172_800]:
        expected = np.linspace(0, count - 1, frames, dtype=int).tolist()
        assert FrameChoice(frames).pick(times_of(count)) == expected, count


@pytest.mark.parametrize("count", range(33))
def test_a_video_of_fewer_frames_has_all_of_them_once(count: int) -> None:
    assert FrameChoice(32).pick(times_of(count)) == list(range(count))


def first_at_or_after(times: Sequence[float], seconds: float) -> list[int]:
    """The definition, word by word."""
    found = []
    for multiple in range(math.ceil(times[-1] / seconds) + 1):
        later = [place for place, time in enumerate(times) if time >= multiple * seconds - 1e-6]
        if later and later[0] not in found:
            found.append(later[0])
    return found


@pytest.mark.parametrize("seconds", [0.01, 0.04, 0.1, 0.5, 1, 1.9, 5.99, 100])
def test_one_in_so_many_seconds_is_the_first_at_or_after_each(seconds: float) -> None:
    for times in (variable().times, times_of(150), times_of(72, 12), [0.0], [0.5, 0.7, 30.2]):
        assert FrameChoice(every=seconds).pick(times) == first_at_or_after(times, seconds)


def test_milliseconds_that_were_rounded_down_count_as_in_time() -> None:
    # 12 frames a second in Matroska: the sixth is at 0.500, the seventh at 0.583.
    times = [round(number / 12, 3) for number in range(72)]
    assert FrameChoice(every=0.5).pick(times) == list(range(0, 72, 6))


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "00:00.000"),
        (12.48, "00:12.480"),
        (59.9994, "00:59.999"),
        (59.9996, "01:00.000"),
        (3599.9999, "1:00:00.000"),
        (3723.48, "1:02:03.480"),
        (86400, "24:00:00.000"),
    ],
)
def test_times_are_written_as_players_show_them(seconds: float, written: str) -> None:
    assert clock(seconds) == written
