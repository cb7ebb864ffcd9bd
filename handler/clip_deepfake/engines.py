"""A card and the files beside it in, the engine that this worker's machine calls for out."""

import logging
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from clip_deepfake.card import Card
from clip_deepfake.errors import LoadError

logger = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]
"""Preprocessed images as uint8 (batch, side, side, 3), RGB, not yet normalised."""

Logits = npt.NDArray[np.float32]
"""Float32 (batch, outputs)."""

Features = npt.NDArray[np.float32]
"""What a head reads, float32 (batch, feature size)."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Of stored weights, by the names that a card's ``precision`` has for them."""

CPU_PASS = 8
"""Pictures in one pass on a CPU. More are hardly faster, and OpenVINO keeps what it has compiled
for each number of pictures that it meets: some 10 MB each with ViT-B/32, as long as it lives."""

GPU_PASS = 64
"""Pictures in one pass on a GPU, which bounds its memory."""


class Engine(Protocol):
    """Whatever turns pixels into logits.

    Attributes:
        name: library, device and precision of the computation, as answers tell it.
        exact: whether it computes in float32.
        largest_pass: pictures that it should be given at once.
    """

    name: str
    exact: bool
    largest_pass: int

    def __call__(self, pixels: Pixels) -> Logits:
        """Maps uint8 (batch, side, side, 3) to float32 logits (batch, outputs)."""
        ...

    def features(self, pixels: Pixels) -> Features:
        """Maps uint8 (batch, side, side, 3) to what the head makes its logits of.

        It is the first half of a call, for whoever trains a head.
        """
        ...


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


def open_engine(
    card: Card, directory: Path, gpu_id: int | None = None, threads: int | None = None
) -> Engine:
    """Makes the engine of an unpacked archive.

    A card's ``auto`` is PyTorch where the worker has a CUDA or MPS device, else OpenVINO, else,
    where that is not installed, PyTorch on the CPU; of a quantised graph it is OpenVINO. Answers
    name the engine that ran.

    Args:
        card: says which engine is wanted, and what the files hold.
        directory: holds the weight files.
        gpu_id: the CUDA device to use, or None.
        threads: that a CPU computes with; None takes every core that this process may use.

    Raises:
        LoadError: when a file does not fit the card, or a library is missing.
    """
    wanted = "openvino" if card.quantization else card.engine
    device = worker_device(gpu_id)
    if wanted == "torch":
        return _open_torch_engine(card, directory, device, threads)
    if device.type != "cpu":
        if wanted == "auto":
            return _open_torch_engine(card, directory, device, threads)
        logger.warning("this archive computes on the CPU; the worker's %s stays unused", device)
    try:
        # Each library is imported by the worker that computes with it, and by no other.
        from clip_deepfake.openvino_engine import open_openvino_engine
    except ImportError as error:
        if wanted == "openvino":
            raise LoadError(
                f"this archive needs OpenVINO, which cannot be imported ({error}): "
                "pip install openvino"
            ) from error
        logger.warning(
            "OpenVINO cannot be imported (%s): PyTorch computes, at about half the speed; "
            "pip install openvino",
            error,
        )
        return _open_torch_engine(card, directory, device, threads)
    return open_openvino_engine(card, directory, threads)


def _open_torch_engine(
    card: Card, directory: Path, device: torch.device, threads: int | None
) -> Engine:
    built_with = card.built_with.get("transformers", "of the builder")
    try:
        # It brings transformers, which takes seconds and 150 MB.
        from clip_deepfake.torch_engine import open_torch_engine
    except ImportError as error:
        raise LoadError(
            f"a worker that computes with PyTorch needs transformers, which cannot be imported "
            f"({error}): pip install 'transformers>={built_with}'"
        ) from error
    try:
        return open_torch_engine(card, directory, device, threads)
    except LoadError as error:
        raise LoadError(
            f"{error}; this archive was built with transformers {built_with}"
        ) from error
