"""What lies in a store that a URI names: folders gone through, patterns, Parquet files."""

import posixpath
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase

from pyarrow import fs

from deepfake_tools.bulk.parquet_rows import is_parquet
from deepfake_tools.storage import Location

MAGIC = re.compile(r"[*\[]")
"""A pattern's signs in a URI, whose options begin with the third one, a question mark."""


def split_pattern(uri: str) -> tuple[str, str]:
    """Divides a URI into that of the folder which a pattern begins from, and the pattern.

    >>> split_pattern("s3://bucket/data/*/a.jpg?region=eu-west-1")
    ('s3://bucket/data?region=eu-west-1', '*/a.jpg')
    """
    place, options = re.fullmatch(r"([^?]*)(\?.*)?", uri, re.DOTALL).groups("")  # type: ignore[union-attr]
    magic = MAGIC.search(place, place.index("://") + 3)
    if magic is None:
        return uri, ""
    end = place.rindex("/", 0, magic.start())
    return place[:end] + options, place[end + 1 :]


def matches(path: str, pattern: str) -> bool:
    """Whether a path is one that a pattern stands for; `**` goes through any folders."""
    if "**" in pattern:
        return fnmatchcase(path, pattern.replace("**/", "*"))
    parts, wanted = path.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def walk_store(folder: Location) -> Iterator[str]:
    """Yields the paths of the files in a folder and below it, without hidden folders.

    Raises:
        StorageError: A folder cannot be read.
    """
    waiting = [folder.path]
    while waiting:
        below = []
        for path, is_folder in folder.at(waiting.pop()).entries():
            if not is_folder:
                yield path
            elif not posixpath.basename(path.rstrip("/")).startswith((".", "_")):
                below.append(path)
        waiting += reversed(below)


def parquet_files(place: Location) -> list[Location]:
    """Returns the Parquet files that a place is, or holds, in the order of their names.

    Raises:
        StorageError: It cannot be read.
    """
    if place.kind() == fs.FileType.File:
        return [place]
    paths = (path for path in walk_store(place) if is_parquet(posixpath.basename(path)))
    return [place.at(path) for path in sorted(paths)]
