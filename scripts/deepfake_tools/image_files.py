"""A folder in, the image files in it and below it out."""

import os
from collections.abc import Iterator
from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image; a hidden one is not."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def walk_images(folder: str | Path) -> Iterator[tuple[list[str], list[str]]]:
    """Goes through a folder and those below it, without hidden ones, in sorted order.

    Links to folders are followed, each folder once.

    Yields:
        Of each folder, the folders in it, which the caller may empty so as not to go there, and the
        paths of its images.

    Raises:
        OSError: when a folder cannot be read.
    """
    seen = set()
    for place, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        identity = Path(place).stat()
        if (identity.st_dev, identity.st_ino) in seen:
            folders.clear()
            continue
        seen.add((identity.st_dev, identity.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield folders, [str(Path(place, name)) for name in sorted(names) if is_image(name)]


def _refuse(error: OSError) -> None:
    raise error
