"""Patterns in URIs: where they begin, and which paths they stand for."""

import re
from fnmatch import fnmatchcase

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
