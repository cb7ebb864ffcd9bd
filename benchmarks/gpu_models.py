"""Models to measure a GPU with, of published size: as our engine and as scripts have them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
from clip_deepfake.card import Feature
from clip_deepfake.encoder import DetectorModule, Encoder, model_class, read_class_token_alone
from clip_deepfake.engines import Logits, Pixels
from clip_deepfake.preprocessing import CLIP_MEAN, CLIP_STD, squash
from deepfake_tools.demonstration.random_clip import VISION_SHAPES
from torch import nn

OUTPUTS = 2


@dataclass(frozen=True)
class Model:
    """An encoder to measure.

    Attributes:
        name: In tables.
        architecture: Name of transformers' class.
        config: Its settings.
        side: Of its input, in pixels.
        width: Of its pooled output.
        feature: What the head reads.
    """

    name: str
    architecture: str
    config: dict[str, Any] = field(repr=False)
    side: int
    width: int
    feature: Feature = "pooler_output"


def _clip(name: str, hub_name: str) -> Model:
    tower = VISION_SHAPES[hub_name].tower
    kind = "CLIPVisionModelWithProjection"
    return Model(name, kind, dict(tower), tower["image_size"], tower["hidden_size"])


B32 = _clip("CLIP ViT-B/32", "openai/clip-vit-base-patch32")
L14 = _clip("CLIP ViT-L/14", "openai/clip-vit-large-patch14")
# facebook/dinov2-base, at the side that its image processor crops to.
DINOV2 = Model(
    "DINOv2 ViT-B/14",
    "Dinov2Model",
    {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": 14,
    },
    224,
    768,
)


def make_module(model: Model, dtype: torch.dtype) -> DetectorModule:
    """Makes what our engine runs, on the CPU; equal models get equal weights but for rounding."""
    tower, head = _random(model)
    encoder = Encoder(tower.to(dtype), model.feature, squash(model.side))
    read_class_token_alone(encoder)
    return DetectorModule(encoder, head, l2_normalize=False).eval().requires_grad_(False)


def _random(model: Model) -> tuple[Any, nn.Linear]:
    kind: Any = model_class(model.architecture)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tower = kind(kind.config_class(**model.config)).eval().requires_grad_(False)
        return tower, nn.Linear(model.width, OUTPUTS).requires_grad_(False)


class PlainModule(nn.Module):
    """Transformers' model and a linear head in half precision, as a script of some lines has them.

    Args:
        model: Which one.
        dtype: Of model and head.
    """

    def __init__(self, model: Model, dtype: torch.dtype) -> None:
        super().__init__()
        tower, head = _random(model)
        self.tower = getattr(tower, "vision_model", tower).to(dtype)
        self.head = head.to(dtype)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Maps normalised pixels (batch, 3, side, side) to logits (batch, outputs)."""
        logits: torch.Tensor = self.head(self.tower(pixel_values=values).pooler_output)
        return logits


Run = Callable[[torch.Tensor], torch.Tensor]


def run_plain(run: Run, values: torch.Tensor, device: torch.device, dtype: torch.dtype) -> Logits:
    """Does with a module what a script does, from pixels in memory to logits in memory.

    Args:
        run: A `PlainModule` on the device, compiled or not.
        values: Float32 (batch, 3, side, side) on the CPU, as an image processor gives them.
        device: Of the module.
        dtype: Of the module.
    """
    with torch.inference_mode():
        logits: Logits = run(values.to(device, dtype)).float().cpu().numpy()
    return logits


def make_pixels(count: int, side: int) -> Pixels:
    """Makes pictures of soft shapes and noise, uint8 (count, side, side, 3); always the same."""
    rng = np.random.default_rng(0)
    pictures = [
        cv2.resize(rng.integers(0, 256, (6, 6, 3), np.uint8), (side, side)) // np.uint8(2)
        + rng.integers(0, 128, (side, side, 3), np.uint8)
        for _ in range(count)
    ]
    return np.stack(pictures)


def normalise(pixels: Pixels) -> torch.Tensor:
    """Maps pixels to what a script's image processor makes of them."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    values = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return ((values - mean) / std).contiguous()
