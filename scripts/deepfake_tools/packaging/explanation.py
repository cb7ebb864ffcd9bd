"""The graph by which a detector explains itself, where its model can be taken apart."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from clip_deepfake.card import Card
from clip_deepfake.decomposition import Decomposition, NotDecomposableError
from clip_deepfake.encoder import DetectorModule
from clip_deepfake.loading import FLOAT32_TOLERANCE, self_test_pixels
from clip_deepfake.torch_engine import TorchEngine

from deepfake_tools.packaging.topology import trace_decomposition


def trace_explanation(
    card: Card, module: DetectorModule, report: Callable[[str], None]
) -> Any | None:
    """Makes the graph of a detector's decomposition, once its parts are seen to add up.

    Args:
        card: of the detector.
        module: in float32.
        report: told in words when there is none.

    Returns:
        As ``trace_decomposition``; None of a model of another structure.
    """
    try:
        decomposition = Decomposition(module.encoder, l2_normalize=module.l2_normalize)
        _check_sums(card, module)
    except NotDecomposableError as reason:
        report(f"explanations are by occlusion alone: {reason}")
        return None
    width = card.encoder.feature_size(card.head.feature)
    return trace_decomposition(decomposition, card.encoder.image_size, width)


def _check_sums(card: Card, module: DetectorModule) -> None:
    """Compares the sum of what each logit is made of with the logit.

    Raises:
        NotDecomposableError: they differ, so that the model has parts that were not looked at.
    """
    engine = TorchEngine(module, torch.device("cpu"), decomposes=True)
    pixels = self_test_pixels(card.encoder.image_size)
    logits = engine(pixels)[0]
    outputs = len(logits)
    each = np.eye(outputs, dtype=np.float32)
    if engine.decompose is None:
        raise NotDecomposableError(f"{engine.name} takes nothing apart")
    found = np.concatenate([engine.decompose(pixels, row[None]) for row in each]).sum(1)
    off = float(np.abs(found - logits).max())
    # Parts may be larger than what they add up to.
    if off > FLOAT32_TOLERANCE * max(1.0, float(np.abs(logits).max())):
        raise NotDecomposableError(f"its parts add up to {found.tolist()}, not {logits.tolist()}")
