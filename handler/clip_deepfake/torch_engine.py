"""Uint8 pixels in, float32 logits out, by PyTorch on CUDA, MPS or the CPU."""

import logging
from pathlib import Path

import numpy as np
import torch

from clip_deepfake.card import ENCODER_FILE, HEAD_FILE, Card
from clip_deepfake.cores import threads_to_ask_for
from clip_deepfake.device_faults import device_faults
from clip_deepfake.encoder import DetectorModule, build_module
from clip_deepfake.engines import CPU_PASS, GPU_PASS, Engine, Features, Logits, Pixels
from clip_deepfake.errors import EngineMemoryError
from clip_deepfake.tensors import load_tensors

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""By the names that a card's ``precision`` has for them."""


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
        self.largest_pass = CPU_PASS if device.type == "cpu" else GPU_PASS
        self.name = f"torch {device.type} {str(dtype).removeprefix('torch.')}"

    def __call__(self, pixels: Pixels) -> Logits:
        """Maps uint8 (batch, side, side, 3) to float32 logits (batch, outputs)."""
        with device_faults(self._device), torch.inference_mode():
            return self._module(torch.from_numpy(pixels).to(self._device)).cpu().numpy()

    def features(self, pixels: Pixels) -> Features:
        """Maps uint8 (batch, side, side, 3) to what the head makes its logits of."""
        with device_faults(self._device), torch.inference_mode():
            return self._module.feature(torch.from_numpy(pixels).to(self._device)).cpu().numpy()


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


def open_torch_engine(
    card: Card, directory: Path, device: torch.device, threads: int | None = None
) -> TorchEngine:
    """Makes the engine of an unpacked archive that holds the encoder in safetensors.

    Args:
        card: says what the files hold.
        directory: holds the encoder and the head.
        device: to compute on.
        threads: that this process computes with where that is the CPU; None takes every core that
            it may use.

    Raises:
        LoadError: when a file is missing, or does not fit the card.
    """
    wanted = threads_to_ask_for(threads)
    if device.type == "cpu" and wanted is not None:
        torch.set_num_threads(wanted)
    encoder, head = (load_tensors(directory / name) for name in (ENCODER_FILE, HEAD_FILE))
    engine = TorchEngine(build_module(card, encoder, head), device)
    if device.type == "cuda":
        warm_up(engine, card.encoder.image_size)
    return engine


def warm_up(engine: Engine, side: int) -> None:
    """Runs passes of 1, 2, 4 and more pictures, up to the engine's largest.

    At the first pass of a size CUDA's libraries choose how to compute it, and take memory for it;
    no request should wait for that.

    Args:
        engine: to be made warm.
        side: of its input, in pixels.
    """
    size = 1
    while size <= engine.largest_pass:
        try:
            engine(np.zeros((size, side, side, 3), np.uint8))
        except EngineMemoryError as error:
            logger.warning("%d pictures in one pass do not fit (%s)", size, error)
            return
        size *= 2
