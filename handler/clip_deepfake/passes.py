"""An engine and pixels in, logits out, in passes that fit its device's memory."""

import logging

import numpy as np

from clip_deepfake.engines import Engine, Logits, Pixels
from clip_deepfake.errors import EngineMemoryError

logger = logging.getLogger(__name__)


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
