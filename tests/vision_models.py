"""Repositories of each further type of vision model, written by transformers: small or full size.

Their weights are random; their image processors' settings are as the Hub has them for that type.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPForImageClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    MetaClip2Config,
    MetaClip2Model,
    PreTrainedModel,
    SiglipConfig,
    SiglipForImageClassification,
    SiglipModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

LABELS = {0: "Realism", 1: "Deepfake"}
"""Of prithivMLmods/Deep-Fake-Detector-v2-Model."""

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
BASE16 = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16,
}
BASE14 = BASE16 | {"patch_size": 14, "image_size": 518}
BASE32 = BASE16 | {"patch_size": 32}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 50,
}

FED = {518: 224}
"""Side that an image processor ends in, where it is not its model's: facebook/dinov2-base's."""

Settings = dict[str, Any]
Reader = Callable[[PreTrainedModel, torch.Tensor], torch.Tensor]


def _both(kind: type) -> Callable[..., Any]:
    """Makes the configuration of a model of images and text."""
    return lambda vision, **more: kind(vision_config=vision, text_config=TEXT, **more)


def _vision(kind: type) -> Callable[..., Any]:
    return lambda vision, **more: kind(**vision, **more)


def _convnext(vision: Settings, **more: Any) -> ConvNextConfig:
    size = {"hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1]}
    return ConvNextConfig(image_size=vision["image_size"], **size, **more)


def _pooled(model: PreTrainedModel, values: torch.Tensor) -> torch.Tensor:
    tower = getattr(model, "vision_model", model)
    return tower(pixel_values=values).pooler_output


def _first_token(model: PreTrainedModel, values: torch.Tensor) -> torch.Tensor:
    tower = getattr(model, "vision_model", model)
    return tower(pixel_values=values).last_hidden_state[:, 0]


def _projected(model: PreTrainedModel, values: torch.Tensor) -> torch.Tensor:
    return model.visual_projection(_pooled(model, values))


@dataclass(frozen=True)
class Kind:
    """A type of model.

    Attributes:
        model: transformers' class.
        config: makes its configuration of a vision model's settings.
        full: those of a published size.
        processor: settings of its image processor on the Hub, but for the sizes.
        features: what a head can read; of a whole classifier, nothing.
    """

    model: type[PreTrainedModel]
    config: Callable[..., Any]
    full: Settings
    processor: Settings
    features: Mapping[str, Reader]

    @property
    def is_classifier(self) -> bool:
        """Whether it is an encoder and a head in one."""
        return not self.features


POOLED: Mapping[str, Reader] = {"pooler_output": _pooled, "class_token": _first_token}
CLIP = {"image_processor_type": "CLIPImageProcessor"}
SIGLIP = {"image_processor_type": "SiglipImageProcessor"}
VIT = {"image_processor_type": "ViTImageProcessor"}
BIT = {"image_processor_type": "BitImageProcessor", "resample": 3}
DINOV3 = {"image_processor_type": "DINOv3ViTImageProcessorFast", "resample": 2}
CONVNEXT = {"image_processor_type": "ConvNextImageProcessor", "crop_pct": 0.875}

ENCODERS: Mapping[str, Kind] = {
    "metaclip2": Kind(
        MetaClip2Model, _both(MetaClip2Config), BASE32, CLIP, POOLED | {"image_embeds": _projected}
    ),
    "siglip": Kind(SiglipModel, _both(SiglipConfig), BASE16, SIGLIP, {"pooler_output": _pooled}),
    "dinov2": Kind(Dinov2Model, _vision(Dinov2Config), BASE14, BIT, POOLED),
    "dinov3": Kind(DINOv3ViTModel, _vision(DINOv3ViTConfig), BASE16, DINOV3, POOLED),
    "vit": Kind(ViTModel, _vision(ViTConfig), BASE16, VIT, POOLED),
}
CLASSIFIERS: Mapping[str, Kind] = {
    "vit": Kind(ViTForImageClassification, _vision(ViTConfig), BASE16, VIT, {}),
    "siglip": Kind(SiglipForImageClassification, _both(SiglipConfig), BASE16, SIGLIP, {}),
    "dinov2": Kind(Dinov2ForImageClassification, _vision(Dinov2Config), BASE14, BIT, {}),
    "clip": Kind(CLIPForImageClassification, _both(CLIPConfig), BASE32, CLIP, {}),
}
CONVNET = Kind(ConvNextForImageClassification, _convnext, BASE16, CONVNEXT, {})


def write_model(
    folder: Path, kind: Kind, vision: Settings = SMALL, *, labels: dict[int, str] | None = None
) -> PreTrainedModel:
    """Writes a repository of random weights; returns the model.

    Args:
        folder: where to; it is made.
        kind: which type.
        vision: size of the vision model.
        labels: of a classifier's outputs.
    """
    names = {} if not kind.is_classifier else {"id2label": labels or LABELS}
    config = kind.config(vision, **names)
    config.label2id = {label: index for index, label in config.id2label.items()}
    torch.manual_seed(5)
    model = kind.model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Away from what they begin with, where biases are 0 and a forgotten one is not missed.
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    side = vision["image_size"]
    write_processor(folder, kind.processor, FED.get(side, side))
    return model


def write_processor(folder: Path, settings: Settings, side: int) -> None:
    """Writes `preprocessor_config.json` with the sizes that this side calls for."""
    kind = settings["image_processor_type"]
    square = {"height": side, "width": side}
    sizes: Settings = {"size": square}
    if kind == "BitImageProcessor":
        # As facebook/dinov2-base has it: 256 and 224.
        sizes = {"size": {"shortest_edge": side * 8 // 7}, "crop_size": square}
    elif kind == "CLIPImageProcessor":
        sizes = {"size": {"shortest_edge": side}, "crop_size": square}
    elif kind == "ConvNextImageProcessor":
        sizes = {"size": {"shortest_edge": side}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "preprocessor_config.json").write_text(json.dumps(sizes | settings))


PROCESSORS = {
    "BitImageProcessor": BitImageProcessorPil,
    "CLIPImageProcessor": CLIPImageProcessorPil,
    "ConvNextImageProcessor": ConvNextImageProcessorPil,
    "SiglipImageProcessor": SiglipImageProcessorPil,
    "ViTImageProcessor": ViTImageProcessorPil,
}


def processor_values(folder: Path, image: Image.Image) -> npt.NDArray[np.float32]:
    """What the repository's own processor makes of an image, (3, side, side)."""
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    name = settings["image_processor_type"]
    if name.startswith("DINOv3"):
        return _dinov3_values(settings, image)
    found = PROCESSORS[name].from_pretrained(folder)(images=image, return_tensors="np")
    return np.asarray(found["pixel_values"][0], np.float32)


def _dinov3_values(settings: Settings, image: Image.Image) -> npt.NDArray[np.float32]:
    """Its processor needs torchvision, whose antialiased resize of tensors is torch's own."""
    values = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float() / 255
    side = settings["size"]["height"]
    resized = nn.functional.interpolate(values, (side, side), mode="bilinear", antialias=True)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return ((resized[0] - mean.view(3, 1, 1)) / std.view(3, 1, 1)).numpy()
