"""Which frames of a video are judged, and how a time within it is written; no library is needed."""

from collections.abc import Sequence
from dataclasses import dataclass

MANY = 32
"""Frames of a video, as DeepfakeBench takes them."""

SLACK_SECONDS = 1e-6
"""By which a frame may be early: times are rounded where a container counts in milliseconds."""


@dataclass(frozen=True)
class FrameChoice:
    """Which frames of a video are judged.

    Attributes:
        frames: How many, evenly spread from the first to the last.
        every: Instead, one in so many seconds.
        middle: Instead, the one in the middle; a title or a fade is seldom there.
    """

    frames: int = MANY
    every: float | None = None
    middle: bool = False

    def pick(self, times: Sequence[float]) -> list[int]:
        """Returns the positions of the frames to judge, rising, each once.

        By number they are those of DeepfakeBench's preprocessing (`numpy.linspace(0, n - 1,
        frames, dtype=int)`, https://github.com/SCLBD/DeepfakeBench, preprocessing/preprocess.py),
        of which a video of fewer frames has all, once. By time it is the first frame that is shown
        at or after each multiple.

        Args:
            times: Of all frames in seconds from the video's beginning, rising.
        """
        if self.middle:
            return [len(times) // 2] if times else []
        if self.every is not None:
            return _one_in(self.every, times)
        last = len(times) - 1
        if self.frames > last:
            return list(range(last + 1))
        if self.frames == 1:
            return [0]
        step = last / (self.frames - 1)
        # As numpy computes it: the last one is exact whatever the product is rounded to.
        return [int(number * step) for number in range(self.frames - 1)] + [last]


def _one_in(seconds: float, times: Sequence[float]) -> list[int]:
    picked: list[int] = []
    due = 0.0
    for place, time in enumerate(times):
        if time + SLACK_SECONDS >= due:
            picked.append(place)
            due = ((time + SLACK_SECONDS) // seconds + 1) * seconds
    return picked


def clock(seconds: float) -> str:
    """Returns a time within a video as it is written: 00:12.480, or 1:02:03.480.

    >>> clock(3723.48)
    '1:02:03.480'
    """
    milliseconds = round(seconds * 1000)
    sign, milliseconds = "-" if milliseconds < 0 else "", abs(milliseconds)
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minute = divmod(minutes, 60)
    start = f"{hours}:{minute:02}" if hours else f"{minute:02}"
    return f"{sign}{start}:{rest / 1000:06.3f}"
