"""A file in, its SHA-256 out, or the refusal of a file that is not the card's."""

import hashlib
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from clip_deepfake.errors import LoadError

Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
"""In hexadecimal."""


def file_digest(path: Path) -> Sha256:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_digest(path: Path, sha256: Sha256) -> None:
    """Makes sure that a file is the one that the card describes.

    Raises:
        LoadError: when it is another, or cannot be read.
    """
    try:
        found = file_digest(path)
    except OSError as error:
        raise LoadError(f"{path.name} cannot be read: {error.strerror}") from error
    if found != sha256:
        raise LoadError(
            f"{path.name} is damaged: its SHA-256 is {found}, the card says {sha256}; "
            "build the archive again"
        )
