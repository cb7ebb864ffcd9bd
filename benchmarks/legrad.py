"""LeGrad: a map of where a backward pass says that attention matters, as a reference.

Bousselham et al., "LeGrad: An Explainability Method for Vision Transformers via Feature Formation
Sensitivity" (arXiv 2404.03214): the margin's gradient for each layer's attention, of which what is
positive is averaged over heads and queries and summed over the layers. Theirs takes a score of each
layer's own tokens; here it is the detector's own margin.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from clip_deepfake.archive_files import load_tensors
from clip_deepfake.card import ENCODER_FILE, HEAD_FILE, read_card
from clip_deepfake.encoder import build_module, load_encoder
from clip_deepfake.engines import Pixels
from clip_deepfake.verdicts import margin_weights
from torch import Tensor, nn


class LeGrad:
    """Maps of a CLIP, by PyTorch."""

    def __init__(self, folder: Path) -> None:
        """Reads an unpacked archive."""
        card = read_card(folder)
        self._head, feature = card.head, card.head.feature
        tensors, head = (load_tensors(folder / name) for name in (ENCODER_FILE, HEAD_FILE))
        encoder = load_encoder(card.encoder, feature, card.preprocessing, tensors)
        self._module = build_module(encoder, card.head, head, card.encoder.feature_size(feature))
        # Without something to differentiate by, no gradient reaches attention.
        self._module.requires_grad_(True)
        model: Any = encoder.model
        model.set_attn_implementation("eager")
        self._layers = (getattr(model, "vision_model", model)).encoder.layers

    def __call__(self, pixels: Pixels) -> npt.NDArray[np.float64]:
        """Maps a picture, uint8 (side, side, 3), to float64 (rows, rows)."""
        weights: list[Tensor] = []

        def keep(_: nn.Module, __: object, output: tuple[Tensor, Tensor]) -> None:
            weights.append(output[1])

        handles = [layer.self_attn.register_forward_hook(keep) for layer in self._layers]
        try:
            logits = self._module(torch.from_numpy(pixels[None]))[0]
        finally:
            for handle in handles:
                handle.remove()
        factors = torch.from_numpy(margin_weights(logits.detach().numpy(), self._head))
        gradients = torch.autograd.grad(logits @ factors, weights)
        total = sum(gradient.clamp_min(0)[0].mean((0, 1))[1:].double() for gradient in gradients)
        patches = torch.as_tensor(total)
        return patches.reshape(round(len(patches) ** 0.5), -1).numpy()
