"""Debian's ffmpeg and ffprobe as an independent decoder, years older than PyAV's FFmpeg."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

RGB = npt.NDArray[np.uint8]

needs_ffmpeg = pytest.mark.skipif(
    None in (shutil.which("ffmpeg"), shutil.which("ffprobe")),
    reason="ffmpeg and ffprobe are not installed",
)


def frames_by_ffmpeg(path: Path, height: int, width: int) -> RGB:
    """Decodes all frames of a video.

    Args:
        path: of the file.
        height: of a frame as it is shown.
        width: likewise.

    Returns:
        uint8 (frames, height, width, 3), turned as the file says.
    """
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-map", "0:v:0", "-fps_mode"]
    command += ["passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


def times_by_ffprobe(path: Path) -> list[float | None]:
    """When each frame is shown, in seconds from the file's beginning; None where it cannot tell."""
    command = ["ffprobe", "-v", "error", "-select_streams", "v:0", "-of", "json", "-show_entries"]
    command += ["frame=best_effort_timestamp_time:format=start_time", str(path)]
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    start = float(found["format"]["start_time"])
    times = [frame.get("best_effort_timestamp_time") for frame in found["frames"]]
    return [None if time is None else float(time) - start for time in times]
