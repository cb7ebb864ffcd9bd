"""What PyTorch raises when a device gives up in, the engine's own errors out."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from clip_deepfake.errors import EngineLostError, EngineMemoryError

# cuBLAS and cuDNN say in words alone that they found no room for their workspace.
MEMORY_WORDS = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")

# After such an error every later call of the same process fails as well; see "Sticky errors" in
# CUDA's documentation. PyTorch had no class of its own for it before 2.8.
LOST_WORDS = ("CUDA error", "CUBLAS_STATUS_EXECUTION_FAILED", "CUDNN_STATUS_EXECUTION_FAILED")


@contextmanager
def device_faults(device: torch.device) -> Iterator[None]:
    """Tells a pass that did not fit from a device that is lost.

    Args:
        device: that the block computes on.

    Raises:
        EngineMemoryError: the device has no room; a smaller pass may fit.
        EngineLostError: the device answers nothing more to this process.
    """
    try:
        yield
    except RuntimeError as error:
        text = " ".join(str(error).split())
        if isinstance(error, torch.OutOfMemoryError) or any(word in text for word in MEMORY_WORDS):
            _give_back(error, device)
            raise EngineMemoryError(text) from None
        if _is_lost(error, text):
            raise EngineLostError(text) from error
        raise


def _give_back(error: RuntimeError, device: torch.device) -> None:
    """Frees what the failed pass had allocated, which its traceback would hold on to."""
    traceback.clear_frames(error.__traceback__)
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _is_lost(error: RuntimeError, text: str) -> bool:
    lost: type[RuntimeError] | None = getattr(torch, "AcceleratorError", None)
    if lost is not None and isinstance(error, lost):
        return True
    return any(word in text for word in LOST_WORDS)
