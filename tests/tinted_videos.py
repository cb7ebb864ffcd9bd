"""Clips whose classes differ by a tint, and the same frames cut by hand."""

from pathlib import Path

import cv2
import numpy as np
from deepfake_tools.videos.sampling import clock

from tests.videos import SHARP, Form, constant, write_clip

FORM = Form(".mp4", options=SHARP | {"crf": "8"}, clock=constant(10, 2))
"""Twenty frames."""


def write_videos(root: Path, each: int, start: int = 0) -> list[Path]:
    """Writes drifting smooth noise into real/*.mp4 and as many, tinted, into fake/*.mp4.

    Args:
        root: gets both folders.
        each: clips of a class.
        start: number of the first.
    """
    paths = []
    for label, kind in enumerate(("real", "fake")):
        for number in range(start, start + each):
            path = root / kind / f"clip_{number:02}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            rng = np.random.default_rng([label, number])
            wide = cv2.GaussianBlur(rng.integers(0, 256, (40, 96, 3)).astype(np.uint8), (0, 0), 3)
            tint = np.array([-14, -7, 14]) * label + rng.normal(0, 6, 3)
            tinted = np.clip(wide + tint, 0, 255).astype(np.uint8)
            frames = [tinted[:, 2 * tick : 2 * tick + 56] for tick in FORM.clock.ticks]
            paths.append(write_clip(path, map(np.ascontiguousarray, frames), FORM))
    return paths


def cut_by_opencv(video: Path, frames: int) -> list[tuple[int, np.ndarray]]:
    """The frames that DeepfakeBench's preprocessing takes: their numbers, and pictures in BGR."""
    capture, found = cv2.VideoCapture(str(video)), []
    while (read := capture.read())[0]:
        found.append(read[1])
    return [(n, found[n]) for n in np.linspace(0, len(found) - 1, frames, dtype=int).tolist()]


def cut_folder(videos: Path, folder: Path, frames: int) -> None:
    """Writes those frames of all videos in a folder as images, a folder for each video."""
    for video in sorted(videos.rglob("*.mp4")):
        own = folder / video.relative_to(videos).with_suffix("")
        own.mkdir(parents=True)
        for number, picture in cut_by_opencv(video, frames):
            cv2.imwrite(str(own / f"{number:03}.png"), picture)


def name_of(video: str, number: int) -> str:
    """How a frame of these clips is called by the client."""
    return f"{video}@{clock(number / 10)}"
