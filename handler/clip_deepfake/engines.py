"""Uint8 pixels in, float32 logits out, on the device that the worker has."""

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from clip_deepfake.encoder import DetectorModule

Pixels = npt.NDArray[np.uint8]
"""Preprocessed images as uint8 (batch, side, side, 3), RGB, not yet normalised."""

Logits = npt.NDArray[np.float32]
"""Float32 (batch, outputs)."""

Features = npt.NDArray[np.float32]
"""What a head reads, float32 (batch, feature size)."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Engine(Protocol):
    """Whatever turns pixels into logits.

    Attributes:
        name: library, device and precision of the computation, as answers tell it.
        exact: whether it computes in float32.
    """

    name: str
    exact: bool

    def __call__(self, pixels: Pixels) -> Logits:
        """Maps uint8 (batch, side, side, 3) to float32 logits (batch, outputs)."""
        ...


class TorchEngine:
    """Runs the module with PyTorch.

    A CPU computes in float32 whatever the weights' precision: half precision is slower there, and
    the answers are those of the same weights without rounding in between.
    """

    def __init__(self, module: DetectorModule, device: torch.device) -> None:
        """Moves the module to the device.

        Args:
            module: in the dtype of its weights.
            device: ``cuda``, ``mps`` or ``cpu``.
        """
        if device.type == "cpu":
            module = module.float()
        self._module = module.to(device)
        self._device = device
        dtype = next(self._module.encoder.parameters()).dtype
        self.exact = dtype == torch.float32
        self.name = f"torch {device.type} {str(dtype).removeprefix('torch.')}"

    def __call__(self, pixels: Pixels) -> Logits:
        """Maps uint8 (batch, side, side, 3) to float32 logits (batch, outputs)."""
        with torch.inference_mode():
            logits = self._module(torch.from_numpy(pixels).to(self._device))
        return logits.cpu().numpy()

    def features(self, pixels: Pixels) -> Features:
        """Maps uint8 (batch, side, side, 3) to what the head makes its logits of.

        It is the first half of a call, for whoever trains a head.
        """
        with torch.inference_mode():
            features = self._module.feature(torch.from_numpy(pixels).to(self._device))
        return features.cpu().numpy()


def worker_device(gpu_id: int | None) -> torch.device:
    """Chooses where a worker computes.

    Args:
        gpu_id: the CUDA device that the server assigned, or None when it assigned none.

    Returns:
        That CUDA device, else Apple's MPS where it is available, else the CPU.
    """
    if gpu_id is not None and torch.cuda.is_available():
        return torch.device("cuda", gpu_id)
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")
