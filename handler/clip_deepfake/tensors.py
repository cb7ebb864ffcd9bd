"""A safetensors file in, its tensors out."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from clip_deepfake.errors import LoadError

FloatArray = npt.NDArray[np.float32]


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
