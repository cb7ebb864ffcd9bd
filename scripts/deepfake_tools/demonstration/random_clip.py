"""A CLIP's shape -> a folder as the Hub has it, with random weights: for the demo and the tests."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from clip_deepfake.preprocessing import CLIP_MEAN, CLIP_STD
from safetensors.torch import save_file


class VisionShape(NamedTuple):
    """A vision tower's settings as in `config.json`, and the size of its projection."""

    tower: dict[str, int]
    projection: int


def tower_shape(hidden_size: int, layers: int, heads: int, **more: int) -> dict[str, int]:
    """Return a tower's settings in the proportions that all of openai's have."""
    return {
        "hidden_size": hidden_size,
        "intermediate_size": 4 * hidden_size,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        **more,
    }


SMALLEST_TEXT = tower_shape(64, layers=1, heads=1, vocab_size=16)
"""A text tower for whoever needs the vision tower alone: nobody reads it."""


def _base(**more: int) -> VisionShape:
    return VisionShape(tower_shape(768, layers=12, heads=12, **more), projection=512)


def _large(**more: int) -> VisionShape:
    return VisionShape(tower_shape(1024, layers=24, heads=16, **more), projection=768)


VISION_SHAPES = {
    "openai/clip-vit-base-patch32": _base(image_size=224, patch_size=32),
    "openai/clip-vit-base-patch16": _base(image_size=224, patch_size=16),
    "openai/clip-vit-large-patch14": _large(image_size=224, patch_size=14),
    "openai/clip-vit-large-patch14-336": _large(image_size=336, patch_size=14),
}
"""The four checkpoints' vision towers, as their `config.json` on the Hub has them."""


def clip_config(vision: dict[str, int], text: dict[str, int], projection: int) -> dict[str, Any]:
    """Return the content of `config.json` for a CLIP of openai's family.

    Args:
        vision: `hidden_size`, `intermediate_size`, `num_hidden_layers`, `num_attention_heads`,
            `image_size` and `patch_size` of the vision tower.
        text: The first four of these for the text tower, and its `vocab_size`.
        projection: Size of the space that both towers meet in.
    """
    common = {
        "attention_dropout": 0.0,
        "hidden_act": "quick_gelu",
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-05,
        "projection_dim": projection,
    }
    positions = {"max_position_embeddings": 77, "bos_token_id": 0, "eos_token_id": 2}
    return {
        "architectures": ["CLIPModel"],
        "initializer_factor": 1.0,
        "logit_scale_init_value": 2.6592,
        "model_type": "clip",
        "projection_dim": projection,
        "text_config": {"model_type": "clip_text_model", **common, **positions, **text},
        "torch_dtype": "float32",
        "vision_config": {"model_type": "clip_vision_model", **common, **vision},
    }


def preprocessor_config(image_size: int) -> dict[str, Any]:
    """Return the content of `preprocessor_config.json` for square images of this many pixels."""
    return {
        "crop_size": image_size,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
        "resample": 3,
        "size": image_size,
    }


def random_weights(config: dict[str, Any], seed: int = 0) -> dict[str, torch.Tensor]:
    """Return both towers' float32 weights under the names that the Hub's checkpoints use.

    They are what transformers begins a training with, so activations stay in their usual range;
    biases and norms are made random too: left at 0 and 1, a reader that forgets one goes unnoticed.

    Args:
        config: As from `clip_config`.
        seed: Of the random numbers; equal seeds give equal weights.
    """
    # Later than this file, and not before a test has told where its Hub is.
    from transformers import CLIPConfig, CLIPModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = CLIPModel(CLIPConfig.from_dict(config)).state_dict()
        for name, tensor in state.items():
            if name.endswith((".bias", "norm.weight", "norm1.weight", "norm2.weight")):
                tensor.add_(0.02 * torch.randn_like(tensor))
    return {name: tensor.detach() for name, tensor in state.items()}


def write_settings(folder: Path, config: dict[str, Any]) -> None:
    """Write `config.json` and the fitting `preprocessor_config.json`; the folder is made."""
    vision = config.get("vision_config", config)
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", config)
    _write_json(folder / "preprocessor_config.json", preprocessor_config(vision["image_size"]))


def write_clip(folder: Path, config: dict[str, Any], seed: int = 0) -> None:
    """Write `config.json`, `preprocessor_config.json` and `model.safetensors` into a folder."""
    write_settings(folder, config)
    save_file(random_weights(config, seed), folder / "model.safetensors", {"format": "pt"})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
