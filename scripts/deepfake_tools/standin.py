"""A CLIP's shape -> a folder as the Hub has it, with random weights: for the demo and the tests."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from clip_deepfake.preprocessing import CLIP_MEAN, CLIP_STD
from safetensors.torch import save_file

_Tensor = tuple[str, tuple[int, ...], float, float]  # name, shape, mean, standard deviation


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

    The scales are those of CLIP's own initialisation, so activations stay in their usual range.
    Biases and norms are random too: left at 0 and 1, a reader that forgets one goes unnoticed.

    Args:
        config: As from `clip_config`.
        seed: Of the random numbers; equal seeds give equal weights.
    """
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: torch.empty(shape).normal_(mean, std, generator=generator)
        for name, shape, mean, std in _tensors(config)
    }
    state["logit_scale"] = torch.tensor(config["logit_scale_init_value"])
    return state


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


def _tensors(config: dict[str, Any]) -> Iterator[_Tensor]:
    vision, text = config["vision_config"], config["text_config"]
    hidden, patch = vision["hidden_size"], vision["patch_size"]
    positions = (vision["image_size"] // patch) ** 2 + 1
    embeddings = "vision_model.embeddings"
    yield f"{embeddings}.class_embedding", (hidden,), 0.0, hidden**-0.5
    yield f"{embeddings}.patch_embedding.weight", (hidden, 3, patch, patch), 0.0, 0.02
    yield f"{embeddings}.position_embedding.weight", (positions, hidden), 0.0, 0.02
    yield from _norm("vision_model.pre_layrnorm", hidden)  # spelt so in every CLIP checkpoint
    yield from _layers("vision_model", vision)
    yield from _norm("vision_model.post_layernorm", hidden)
    yield "visual_projection.weight", (config["projection_dim"], hidden), 0.0, hidden**-0.5

    hidden = text["hidden_size"]
    embeddings = "text_model.embeddings"
    yield f"{embeddings}.token_embedding.weight", (text["vocab_size"], hidden), 0.0, 0.02
    positions = text["max_position_embeddings"]
    yield f"{embeddings}.position_embedding.weight", (positions, hidden), 0.0, 0.02
    yield from _layers("text_model", text)
    yield from _norm("text_model.final_layer_norm", hidden)
    yield "text_projection.weight", (config["projection_dim"], hidden), 0.0, hidden**-0.5


def _layers(tower: str, config: dict[str, Any]) -> Iterator[_Tensor]:
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    layers = config["num_hidden_layers"]
    narrow_std = hidden**-0.5 * (2 * layers) ** -0.5
    for number in range(layers):
        layer = f"{tower}.encoder.layers.{number}"
        for name in ("q_proj", "k_proj", "v_proj"):
            yield from _linear(f"{layer}.self_attn.{name}", hidden, hidden, narrow_std)
        yield from _linear(f"{layer}.self_attn.out_proj", hidden, hidden, hidden**-0.5)
        yield from _norm(f"{layer}.layer_norm1", hidden)
        yield from _linear(f"{layer}.mlp.fc1", wide, hidden, (2 * hidden) ** -0.5)
        yield from _linear(f"{layer}.mlp.fc2", hidden, wide, narrow_std)
        yield from _norm(f"{layer}.layer_norm2", hidden)


def _linear(name: str, outputs: int, inputs: int, std: float) -> Iterator[_Tensor]:
    yield f"{name}.weight", (outputs, inputs), 0.0, std
    yield f"{name}.bias", (outputs,), 0.0, 0.02


def _norm(name: str, size: int) -> Iterator[_Tensor]:
    yield f"{name}.weight", (size,), 1.0, 0.02
    yield f"{name}.bias", (size,), 0.0, 0.02


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
