"""Computes with PyTorch on CUDA, MPS or the CPU: uint8 pixels in, float32 logits out."""

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch

from clip_deepfake.archive_files import load_tensors
from clip_deepfake.card import ENCODER_FILE, EXPLANATION_FILE, HEAD_FILE, Card
from clip_deepfake.decomposition import Decomposition
from clip_deepfake.encoder import (
    DetectorModule,
    build_module,
    load_encoder,
    read_class_token_alone,
)
from clip_deepfake.engines import (
    CPU_PASS,
    GPU_PASS,
    Contributions,
    Decompose,
    Engine,
    Features,
    Logits,
    Pixels,
)
from clip_deepfake.errors import EngineLostError, EngineMemoryError
from clip_deepfake.system import threads_to_ask_for

logger = logging.getLogger(__name__)


class TorchEngine:
    """Runs the module with PyTorch, in the precision of its weights."""

    def __init__(
        self, module: DetectorModule, device: torch.device, *, decomposes: bool = False
    ) -> None:
        """Moves the module to the device.

        Args:
            module: in the dtype of its weights.
            device: ``cuda``, ``mps`` or ``cpu``.
            decomposes: whether features are to be taken apart, of which the model must be capable.
        """
        self._module = module.to(device)
        self.device = device
        dtype = self._module.encoder.dtype
        if dtype == torch.float32:
            # Without this a GPU's convolutions round to 10 bits of mantissa.
            torch.backends.cudnn.allow_tf32 = False
        self.exact = dtype == torch.float32
        self.largest_pass = CPU_PASS if device.type == "cpu" else GPU_PASS
        self.name = f"torch {device.type} {str(dtype).removeprefix('torch.')}"
        self.decompose: Decompose | None = None
        if decomposes:
            encoder, normed = self._module.encoder, self._module.l2_normalize
            decomposition = Decomposition(encoder, l2_normalize=normed)
            self.decompose = partial(self._decompose, decomposition)

    def __call__(self, pixels: Pixels) -> Logits:
        """Maps uint8 (batch, side, side, 3) to float32 logits (batch, outputs)."""
        with device_faults(self.device), torch.inference_mode():
            return self._module(torch.from_numpy(pixels).to(self.device)).cpu().numpy()

    def features(self, pixels: Pixels) -> Features:
        """Maps uint8 (batch, side, side, 3) to what the head makes its logits of."""
        with device_faults(self.device), torch.inference_mode():
            return self._module.feature(torch.from_numpy(pixels).to(self.device)).cpu().numpy()

    def _decompose(
        self, decomposition: Decomposition, pixels: Pixels, weights: Logits
    ) -> Contributions:
        with device_faults(self.device), torch.inference_mode():
            of_logits = torch.from_numpy(weights).to(self.device)
            head = self._module.head
            of_feature = of_logits @ head.weight
            found = decomposition(torch.from_numpy(pixels).to(self.device), of_feature)
            found[:, 0] += of_logits @ head.bias
            return found.cpu().numpy()


def open_torch_engine(
    card: Card, directory: Path, device: torch.device, threads: int | None = None
) -> TorchEngine:
    """Makes the engine of an unpacked archive that holds the encoder in safetensors.

    A CPU computes in float32 whatever the weights' precision: half precision is slower there, and
    the answers are those of the same weights without rounding in between.

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
    tensors, head = (load_tensors(directory / name) for name in (ENCODER_FILE, HEAD_FILE))
    feature = card.head.feature
    encoder = load_encoder(card.encoder, feature, card.preprocessing, tensors)
    read_class_token_alone(encoder)
    module = build_module(encoder, card.head, head, card.encoder.feature_size(feature))
    decomposes = EXPLANATION_FILE in card.files
    engine = TorchEngine(
        module.float() if device.type == "cpu" else module, device, decomposes=decomposes
    )
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
