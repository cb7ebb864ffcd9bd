"""A safetensors file in, tensors of the shapes that a card tells of out."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from clip_deepfake.errors import LoadError

FloatArray = npt.NDArray[np.float32]

Shapes = Mapping[str, tuple[int, ...]]
"""Of tensors, by their names."""


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Reads tensors as they are stored; the file is mapped into memory, not copied.

    Raises:
        LoadError: when the file is missing or no safetensors file.
    """
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
