"""Small pictures of images and of videos' frames, for a page; needs the extra `evaluate`."""

import base64
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from clip_deepfake import errors
from clip_deepfake.images import RGB, decode

from deepfake_tools.evaluation.outcomes import Outcome
from deepfake_tools.evaluation.perturbations import MAX_PIXELS, smaller
from deepfake_tools.image_files import encode

SIDE = 220
"""The longer side in pixels: sharp at half of it on a phone."""

STRIP_SIDE = 130
"""Of a frame in a strip of six."""

QUALITY = 80


class WantedFrame(NamedTuple):
    """A frame that a page shows, and how large."""

    video: str
    number: int
    side: int


class Pictures:
    """The pictures of a page, each a JPEG as a data URI; None where there is none any more.

    Args:
        frames: Those that will be asked for: each video is decoded once, for all of its own.
        maps: The folder of the images' explanations; None where there are none.
    """

    def __init__(self, frames: Iterable[WantedFrame], maps: Path | None = None) -> None:
        self._maps = maps
        sides: defaultdict[str, defaultdict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
        for video, number, side in frames:
            sides[video][number].add(side)
        # Made small at once: a hundred large frames would not fit into memory.
        self._frames = {
            WantedFrame(video, number, side): thumbnail(picture, side)
            for video, numbers in sides.items()
            for number, picture in _read(video, sorted(numbers))
            for side in numbers[number]
        }

    def of(self, outcome: Outcome) -> str | None:
        """Returns the picture of an image, or of a frame."""
        if outcome.video is not None:
            return self.of_frame(outcome.video, outcome.frame, SIDE)
        return _thumbnail_of(Path(outcome.path))

    def map_of(self, outcome: Outcome) -> str | None:
        """Returns the picture of an image's explanation."""
        return None if self._maps is None else _thumbnail_of(outcome.map_in(self._maps))

    def of_frame(self, video: str, number: int | None, side: int = STRIP_SIDE) -> str | None:
        """Returns the picture of a frame."""
        return None if number is None else self._frames.get(WantedFrame(video, number, side))


def _thumbnail_of(file: Path) -> str | None:
    try:
        return thumbnail(file.read_bytes(), SIDE)
    except (OSError, ValueError):
        return None


def thumbnail(data: bytes, side: int) -> str | None:
    """Returns a small JPEG of an image as a data URI, or None where the bytes are none.

    Args:
        data: An image file's.
        side: The longer side at most, in pixels.
    """
    try:
        image = decode(data, MAX_PIXELS, "opencv-5")
    except errors.ImageError:
        return None
    return data_uri(image, side)


def data_uri(image: RGB, side: int) -> str:
    """Returns a small JPEG of an image as a data URI.

    Args:
        image: uint8 (height, width, 3).
        side: The longer side at most, in pixels.
    """
    small = smaller(image, min(side / max(image.shape[:2]), 1))
    return f"data:image/jpeg;base64,{base64.b64encode(encode(small, QUALITY)).decode()}"


def _read(video: str, numbers: list[int]) -> Iterator[tuple[int, bytes]]:
    """Yields those frames that can be read, as image files."""
    # Decoding takes libraries that only videos need.
    from deepfake_tools.videos.frames import read_frames

    with suppress(OSError):
        for number, frame in read_frames(video, numbers):
            if isinstance(frame, bytes):
                yield number, frame
