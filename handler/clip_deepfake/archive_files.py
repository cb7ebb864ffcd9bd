"""The files of an unpacked archive: their digests, and the tensors in them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import numpy.typing as npt
from msgspec import Meta

from clip_deepfake.errors import LoadError

if TYPE_CHECKING:
    from torch import Tensor

Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
"""In hexadecimal."""

FloatArray = npt.NDArray[np.float32]

Shapes = Mapping[str, tuple[int, ...]]
"""Of tensors, by their names."""


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


def load_tensors(path: Path) -> dict[str, "Tensor"]:
    """Reads tensors as they are stored; the file is mapped into memory, not copied.

    Raises:
        LoadError: when the file is missing or no safetensors file.
    """
    # Who aligns faces on a machine without torch wants the digests alone.
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise LoadError(f"{path.name} cannot be read: {error}") from error


def load_arrays(path: Path) -> dict[str, FloatArray]:
    """Reads tensors as float32; NumPy has no bfloat16, so torch widens it.

    Raises:
        LoadError: as ``load_tensors``.
    """
    return {name: tensor.float().numpy() for name, tensor in load_tensors(path).items()}


def check_shapes(wanted: Shapes, found: Shapes, what: str) -> None:
    """Makes sure that tensors are those that the card tells of.

    Raises:
        LoadError: when one is missing, left over or of another shape.
    """
    if wanted == found:
        return
    wrong = sorted(name for name in {**wanted, **found} if wanted.get(name) != found.get(name))
    first = wrong[0]
    raise LoadError(
        f"{len(wrong)} of the {what}'s tensors do not fit the card, the first is {first}: "
        f"{wanted.get(first, 'unknown')} wanted, {found.get(first, 'missing')} found"
    )
