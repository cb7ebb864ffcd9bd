"""Videos among the images to train on: each stands for frames of it, written as image files."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from deepfake_tools.extras import require_extra
from deepfake_tools.image_files import is_video
from deepfake_tools.progress import Progress
from deepfake_tools.training.dataset import Dataset, LabelledImage
from deepfake_tools.videos.frames import Extracted, extract
from deepfake_tools.videos.sampling import FrameChoice

FRAMES = 8
"""Of each video: neighbours teach little that is new, and more videos teach more."""


def take_frames(dataset: Dataset, frames: int, folder: Path, say: Callable[[str], None]) -> Dataset:
    """Puts frames in the place of each video.

    Args:
        dataset: images, and videos among them.
        frames: of each video, evenly spread over it.
        folder: takes the frames; those that lie there from an earlier run are used again.
        say: told which videos have none, and why.

    Raises:
        MissingExtraError: when there are videos, and nothing to read them with.
    """
    videos = [str(image.path) for image in dataset.images if is_video(image.path.name)]
    if not videos:
        return dataset
    require_extra("training on videos", extra="videos")
    found = _extract(videos, frames, folder, say)
    images: list[LabelledImage] = []
    for image in dataset.images:
        if (video := found.get(str(image.path))) is None:
            images.append(image)
        else:
            images += [LabelledImage(file, image.label, image.path) for file in video.files]
    count = sum(len(video.files) for video in found.values())
    say(f"{len(videos)} videos, of which {count} frames are taken")
    return replace(dataset, images=tuple(images))


def _extract(
    videos: list[str], frames: int, folder: Path, say: Callable[[str], None]
) -> dict[str, Extracted]:
    progress = Progress(sys.stderr, "videos", len(videos))
    found: dict[str, Extracted] = {}
    try:
        for video in extract(videos, FrameChoice(frames), folder):
            found[video.path] = video
            progress.update(len(found))
    finally:
        progress.clear()
    for video in found.values():
        if video.fault is not None:
            say(f"left out: {video.path}: {video.fault}")
        elif video.note is not None:
            say(f"note: {video.path}: {video.note}")
    return found
