"""Image files: finds those in a folder and below it, counts what it leaves out, makes new ones."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from deepfake_tools.extras import MissingExtraError, require_extra

if TYPE_CHECKING:
    from clip_deepfake.images import RGB

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo"),
    *(".png", ".apng", ".webp", ".gif"),
    *(".bmp", ".dib", ".tif", ".tiff"),
)
"""Under which the formats are found that a worker decodes."""

HEIC_SUFFIXES = (".heic", ".heif", ".hif")
"""Under which telephones' own format is found, where it can be decoded."""

VIDEO_SUFFIXES = (
    *(".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v"),
    *(".3gp", ".flv", ".m2ts", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".wmv"),
)
"""Under which videos are found, where they are looked for."""

SHOWN_ENDINGS = 8

LARGEST_PLAIN = 8 << 20
"""Bytes of pixels, 1920 x 1080 and some more."""


@dataclass
class LeftOut:
    """Files that were met and not taken; hidden ones are not looked at.

    Attributes:
        videos: Whether they are taken as images are.
        endings: How many have another ending than an image, by ending; "" for none.
        irregular: How many have an image's ending, and are no regular files.
        without_videos: What to say where videos are among them; None where there is nothing.
    """

    videos: bool = False
    endings: Counter[str] = field(default_factory=Counter)
    irregular: int = 0
    without_videos: str | None = None

    def takes(self, name: str) -> bool:
        """Whether a file of this name is taken."""
        return is_image(name) or (self.videos and is_video(name))

    def add(self, name: str) -> None:
        """Counts a file that is no image by its name."""
        self.endings[os.path.splitext(name)[1].lower()] += 1  # noqa: PTH122 - cheaper than a Path

    def notes(self) -> Iterator[str]:
        """Yields what a person should know of them, a line each."""
        if self.endings:
            kinds = sorted(self.endings.items(), key=lambda kind: (-kind[1], kind[0]))
            shown = [f"{ending or 'no ending'} {n}" for ending, n in kinds[:SHOWN_ENDINGS]]
            if len(kinds) > SHOWN_ENDINGS:
                shown.append(f"others {sum(n for _, n in kinds[SHOWN_ENDINGS:])}")
            total = self.endings.total()
            yield (
                f"{total} {'file has' if total == 1 else 'files have'} another ending than an "
                f"image and {'is' if total == 1 else 'are'} left out ({', '.join(shown)})"
            )
        if any(ending in HEIC_SUFFIXES for ending in self.endings) and (fault := heic_fault()):
            yield fault
        if self.without_videos is not None and any(
            ending in VIDEO_SUFFIXES for ending in self.endings
        ):
            yield self.without_videos
        if self.irregular:
            yield (
                f"{self.irregular} with an image's ending left out: no regular files, but FIFOs, "
                "sockets, devices or links that lead nowhere"
            )


@lru_cache(maxsize=1)
def heic_fault() -> str | None:
    """Returns what to install for HEIC to be read; None where it is."""
    try:
        require_extra("reading HEIC", extra="heic")
    except MissingExtraError as error:
        return str(error)
    return None


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image; a hidden one is not."""
    suffixes = (*SUFFIXES, *HEIC_SUFFIXES) if heic_fault() is None else SUFFIXES
    return name.lower().endswith(suffixes) and not name.startswith(".")


def is_video(name: str) -> bool:
    """Whether a file of this name is taken for a video; a hidden one is not."""
    return name.lower().endswith(VIDEO_SUFFIXES) and not name.startswith(".")


def walk_images(
    folder: str | Path, left_out: LeftOut | None = None
) -> Iterator[tuple[list[str], list[str]]]:
    """Goes through a folder and those below it, without hidden ones, in sorted order.

    Links are followed, to each folder once. What is no regular file is not taken, whatever its
    name: to open a FIFO would be to wait for ever.

    Args:
        folder: Where to begin.
        left_out: Says whether videos are taken too, and counts what is not taken.

    Yields:
        Of each folder, the folders in it, which the caller may empty so as not to go there, and the
        paths of its images and videos.

    Raises:
        OSError: when a folder cannot be read.
    """
    counts = LeftOut() if left_out is None else left_out
    seen = set()
    waiting = [str(folder)]
    while waiting:
        place = waiting.pop()
        identity = Path(place).stat()
        if (identity.st_dev, identity.st_ino) in seen:
            continue
        seen.add((identity.st_dev, identity.st_ino))
        folders, images = _entries(place, counts)
        yield folders, images
        waiting += [os.path.join(place, name) for name in reversed(folders)]  # noqa: PTH118


def find_images(folder: Path, left_out: LeftOut | None = None) -> Iterator[Path]:
    """Yields the image files in a folder and below it, as ``walk_images`` finds them.

    Args:
        folder: where to look.
        left_out: says whether videos are taken too, and counts what is not taken.

    Raises:
        OSError: when a folder cannot be read.
    """
    for _, images in walk_images(folder, left_out):
        yield from map(Path, images)


def _entries(place: str, left_out: LeftOut) -> tuple[list[str], list[str]]:
    """Returns the sorted names of the folders in a folder, and the paths of what is taken."""
    folders, images = [], []
    with os.scandir(place) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                folders.append(entry.name)
            elif not left_out.takes(entry.name):
                left_out.add(entry.name)
            elif entry.is_file():
                images.append(str(Path(place, entry.name)))
            else:
                left_out.irregular += 1
    return sorted(folders), sorted(images)


def encode(image: "RGB", jpeg_quality: int | None = None) -> bytes:
    """Returns the image as a JPEG file of this quality, from 1 to 100, or as a PNG file."""
    import cv2

    if jpeg_quality is not None:
        extension, settings = ".jpg", (cv2.IMWRITE_JPEG_QUALITY, jpeg_quality)
    else:
        # Fast rather than small: the server is near, and the next image waits.
        extension, settings = ".png", (cv2.IMWRITE_PNG_COMPRESSION, 1)
    _, encoded = cv2.imencode(extension, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), settings)
    return encoded.tobytes()


def encode_quickly(image: "RGB") -> bytes:
    """Returns the image as a file for what reads it at once, in as few instructions as can be.

    Neither form loses anything. To compress a frame of 640 x 480 as PNG and to read that takes a
    core 39 ms, as BMP 4 ms, and CLIP ViT-B/32 on that core 80; but a BMP file is three to four
    times as large, so beyond `LARGEST_PLAIN` what carries it would take longer than that.

    Args:
        image: uint8 (height, width, 3).
    """
    import cv2

    if image.nbytes > LARGEST_PLAIN:
        return encode(image)
    _, encoded = cv2.imencode(".bmp", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return encoded.tobytes()
