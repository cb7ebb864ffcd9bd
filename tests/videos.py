"""Clips made of the example photographs: a window wanders over one, two seconds manipulated.

In every container and codec that is common, at constant and variable rates, and turned.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
from deepfake_tools.demonstration.blending import manipulate
from PIL import Image

from tests import ROOT

RGB = npt.NDArray[np.uint8]

SECONDS = 6
MANIPULATED = (2.0, 4.0)
"""From when to when, in seconds, before the end."""

MILLISECOND = Fraction(1, 1000)


@dataclass(frozen=True)
class Clock:
    """When frames are shown: the multiples of a unit.

    Attributes:
        unit: in seconds.
        ticks: of each frame, rising.
    """

    unit: Fraction
    ticks: Sequence[int]

    @property
    def times(self) -> list[float]:
        """In seconds."""
        return [float(tick * self.unit) for tick in self.ticks]


def constant(rate: int, seconds: float = SECONDS, start: int = 0) -> Clock:
    """So many frames a second; `start` frames' time passes before the first."""
    return Clock(Fraction(1, rate), range(start, start + round(rate * seconds)))


def variable(seconds: float = SECONDS) -> Clock:
    """Between 20 and 160 ms from frame to frame, as telephones record in changing light."""
    gaps = np.random.default_rng(0).integers(20, 161, 1000)
    ticks = accumulate(map(int, gaps), initial=0)
    return Clock(
        MILLISECOND, [tick for tick in ticks if tick < seconds * 1000][: int(seconds * 25)]
    )


@dataclass(frozen=True)
class Form:
    """How a clip is stored.

    Attributes:
        suffix: of the file, which names the container.
        codec: by FFmpeg's name of its encoder.
        options: of the encoder.
        clock: of its frames.
        turn: by how many degrees, clockwise, a player turns it; only mp4 and mov.
        muxer: options of the container.
        size: (height, width) as it is stored.
        pixels: how they are stored, by FFmpeg's name.
    """

    suffix: str
    codec: str = "libx264"
    options: Mapping[str, str] = field(default_factory=dict)
    clock: Clock = field(default_factory=lambda: constant(12))
    turn: int = 0
    muxer: Mapping[str, str] = field(default_factory=dict)
    size: tuple[int, int] = (240, 320)
    pixels: str = "yuv420p"


SHARP = {"crf": "16", "preset": "veryfast", "threads": "1"}
B_FRAMES = SHARP | {"bf": "3", "g": "30", "b-adapt": "0"}
VPX = {"crf": "16", "b": "2000000", "deadline": "realtime", "cpu-used": "8", "threads": "1"}

FORMS: dict[str, Form] = {
    "mp4": Form(".mp4", options=SHARP | {"bf": "0"}),
    "mp4-b-frames": Form(".mp4", options=B_FRAMES, clock=constant(25)),
    "mp4-variable": Form(".mp4", options=B_FRAMES, clock=variable()),
    "mp4-90": Form(".mp4", options=SHARP, turn=90),
    "mp4-180": Form(".mp4", options=SHARP, turn=180),
    "mp4-270": Form(".mp4", options=SHARP, turn=270),
    "mp4-odd": Form(".mp4", options=SHARP, size=(238, 322)),
    "mp4-fragments": Form(
        ".mp4", options=B_FRAMES, muxer={"movflags": "+frag_keyframe+empty_moov+default_base_moof"}
    ),
    "m4v": Form(".m4v", options=SHARP),
    "mov": Form(".mov", options=B_FRAMES),
    "mkv": Form(".mkv", options=B_FRAMES),
    "mkv-variable": Form(".mkv", options=B_FRAMES, clock=variable()),
    "mkv-late": Form(".mkv", options=B_FRAMES, clock=constant(12, start=9)),
    # After a seek, what is shown before the key frame and decoded after it lacks its reference.
    "mkv-open": Form(".mkv", options=SHARP | {"x264-params": "open-gop=1:keyint=12:bframes=3"}),
    "ts": Form(".ts", options=B_FRAMES),
    "webm-vp8": Form(".webm", "libvpx", VPX | {"auto-alt-ref": "1", "lag-in-frames": "12"}),
    "webm-vp9": Form(".webm", "libvpx-vp9", VPX),
    "webm-variable": Form(".webm", "libvpx-vp9", VPX, clock=variable()),
    # Its packets carry no times of presentation, and those of decoding are out of order.
    "avi": Form(".avi", "mpeg4", {"bf": "2", "b": "3000000", "threads": "1"}, clock=constant(25)),
    "avi-h264": Form(".avi", options=B_FRAMES, clock=constant(25)),
}
"""By name. All show `scene` of one photograph."""


@cache
def photographs() -> dict[str, RGB]:
    """The example photographs by name, RGB uint8 (height, width, 3)."""
    paths = sorted((ROOT / "examples").glob("*.jpg"))
    return {path.stem: np.asarray(Image.open(path).convert("RGB")) for path in paths}


def scene(
    photograph: RGB,
    times: Sequence[float],
    size: tuple[int, int],
    manipulated: tuple[float, float] | None = MANIPULATED,
) -> list[RGB]:
    """A window pans and zooms over a photograph.

    Args:
        photograph: uint8 (height, width, 3).
        times: of the frames, in seconds.
        size: (height, width) of a frame.
        manipulated: from when to when, before the end, the window's middle is a forger's.

    Returns:
        uint8 (height, width, 3) each.
    """
    first, last = times[0], max(times[-1], times[0] + 1e-9)
    frames = []
    for time in times:
        frame = _window(photograph, (time - first) / (last - first), size)
        if manipulated is not None and manipulated[0] <= time < manipulated[1]:
            frame = forged(frame)
        frames.append(frame)
    return frames


def _window(photograph: RGB, progress: float, size: tuple[int, int]) -> RGB:
    """What is seen after a part of the way, from the left and large to the right and small."""
    height, width = photograph.shape[:2]
    scale = (0.8 - 0.2 * progress) * min(height / size[0], width / size[1])
    rows, columns = size[0] * scale, size[1] * scale
    left, top = (width - columns) * progress, (height - rows) * (1 - progress) / 2
    place = np.array([[scale, 0, left], [0, scale, top]])
    # The inverse map: where in the photograph a pixel of the window lies.
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(photograph, place, size[::-1], flags=flags).astype(np.uint8)


def forged(frame: RGB) -> RGB:
    """A copy with the largest square in its middle manipulated."""
    side = min(frame.shape[:2])
    top, left = (frame.shape[0] - side) // 2, (frame.shape[1] - side) // 2
    part = np.s_[top : top + side, left : left + side]
    result = frame.copy()
    # The same oval in every frame: a forged face stays in its place.
    result[part] = manipulate(frame[part], np.random.default_rng(0))
    return result


def write_form(name: str, folder: Path) -> Path:
    """Writes the clip of this name in `FORMS` into a folder and returns its path."""
    form = FORMS[name]
    frames = scene(photographs()["astronaut"], form.clock.times, form.size)
    return write_clip(folder / f"{name}{form.suffix}", frames, form)


def write_clip(path: Path, frames: Iterable[RGB], form: Form) -> Path:
    """Writes frames as a clip; the same frames give the same bytes.

    Args:
        path: of the file.
        frames: of one size, uint8 (height, width, 3); as many as the form's clock has ticks.
        form: how they are stored; its size and its suffix do not count.
    """
    muxer = {"fflags": "+bitexact", **form.muxer}
    with av.open(path, "w", options=muxer) as container:
        stream: Any = None
        for tick, pixels in zip(form.clock.ticks, frames, strict=True):
            if stream is None:
                stream = _add_stream(container, form, pixels)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = tick, form.clock.unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def _add_stream(container: Any, form: Form, first: RGB) -> Any:
    """Adds the video stream; its frames are as large as the first."""
    rate = 1 / form.clock.unit if form.clock.unit != MILLISECOND else 25
    options = {"flags": "+bitexact", **form.options}
    stream = container.add_stream(form.codec, rate=rate, options=options)
    stream.height, stream.width = first.shape[:2]
    stream.pix_fmt = form.pixels
    stream.codec_context.time_base = form.clock.unit
    if form.turn:
        # Of the container, counted against the clock.
        stream.set_display_rotation(-form.turn)
    return stream
