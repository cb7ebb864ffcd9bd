"""What an engine is: uint8 pixels in, float32 logits out, in passes that fit its device."""

import logging
from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from clip_deepfake.errors import EngineMemoryError

logger = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]
"""Preprocessed images as uint8 (batch, side, side, 3), RGB, not yet normalised."""

Logits = npt.NDArray[np.float32]
"""Float32 (batch, outputs)."""

Features = npt.NDArray[np.float32]
"""What a head reads, float32 (batch, feature size)."""

Contributions = npt.NDArray[np.float32]
"""What a product of weights and logits is made of, float32 (batch, 1 + patches), which add up to
it: first what comes from no patch, then the patches, row by row."""

Decompose = Callable[[Pixels, Logits], Contributions]
"""Of pictures, uint8 (batch, side, side, 3), and of what their logits are multiplied by, float32
(batch, outputs)."""

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
        decompose: takes products with the logits apart; None where it cannot.
    """

    name: str
    exact: bool
    largest_pass: int
    decompose: Decompose | None

    def __call__(self, pixels: Pixels) -> Logits:
        """Maps uint8 (batch, side, side, 3) to float32 logits (batch, outputs)."""
        ...

    def features(self, pixels: Pixels) -> Features:
        """Maps uint8 (batch, side, side, 3) to what the head makes its logits of.

        It is the first half of a call, for whoever trains a head.
        """
        ...


def run_pass(engine: Engine, pixels: Pixels) -> Logits:
    """Runs one pass, or several smaller ones where it does not fit.

    Args:
        engine: maps pixels to logits.
        pixels: uint8 (batch, side, side, 3).

    Returns:
        Float32 (batch, outputs).

    Raises:
        EngineMemoryError: when not even one picture fits.
    """
    try:
        return engine(pixels)
    except EngineMemoryError as error:
        if len(pixels) == 1:
            raise
        logger.warning("%d pictures in one pass are too many (%s): halving", len(pixels), error)
    middle = len(pixels) // 2
    halves = (pixels[:middle], pixels[middle:])
    return np.concatenate([run_pass(engine, half) for half in halves])
