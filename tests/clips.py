"""CLIP repositories made on the spot: openai's four shapes, full size, and a small one."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from deepfake_tools.demonstration.random_clip import (
    VISION_SHAPES,
    VisionShape,
    clip_config,
    random_weights,
    tower_shape,
    write_settings,
)
from safetensors.torch import save_file

SAFETENSORS = "model.safetensors"
PICKLE = "pytorch_model.bin"


def _config(vision: VisionShape) -> dict[str, Any]:
    # Its text tower is as wide as its projection, in every one of them.
    width = vision.projection
    text = tower_shape(width, layers=12, heads=width // 64, vocab_size=49408)
    return clip_config(vision.tower, text, vision.projection)


CONFIGS: dict[str, dict[str, Any]] = {
    name: _config(vision) for name, vision in VISION_SHAPES.items()
}
"""The four checkpoints' `config.json`."""

# Every tensor of the big ones, in half a megabyte; hidden, projection and text sizes all differ.
SMALL = clip_config(
    tower_shape(64, 2, 4, image_size=32, patch_size=8),
    tower_shape(48, 1, 3, vocab_size=99),
    projection=40,
)


def write_repository(
    folder: Path,
    config: dict[str, Any],
    *,
    seed: int = 0,
    formats: Iterable[str] = (SAFETENSORS,),
    decoys: bool = True,
) -> Path:
    """Write a repository's files as they lie on the Hub.

    Args:
        folder: Where to; it is made.
        config: One of `CONFIGS`, or `SMALL`, or a changed copy.
        seed: Of the weights; equal seeds give equal weights.
        formats: Which weight files: `SAFETENSORS`, `PICKLE`, or both (with equal content).
        decoys: Add the files that a builder has no use for.

    Returns:
        The folder.
    """
    write_settings(folder, config)
    write_weights(folder, {**random_weights(config, seed), **_position_ids(config)}, formats)
    if decoys:
        _write_decoys(folder)
    return folder


def write_vision_repository(
    folder: Path, *, seed: int = 0, formats: Iterable[str] = (SAFETENSORS,), projection: bool = True
) -> Path:
    """Write `SMALL`'s vision tower alone, as a repository of type `clip_vision_model`.

    Args:
        folder: Where to; it is made.
        seed: Of the weights; the tower equals `write_repository`'s for this seed.
        formats: Which weight files.
        projection: Whether the visual projection is there (`CLIPVisionModelWithProjection`).

    Returns:
        The folder.
    """
    kind = "CLIPVisionModelWithProjection" if projection else "CLIPVisionModel"
    write_settings(folder, {"architectures": [kind], **SMALL["vision_config"]})
    wanted = ("vision_model.", "visual_projection.") if projection else ("vision_model.",)
    state = {k: v for k, v in random_weights(SMALL, seed).items() if k.startswith(wanted)}
    write_weights(folder, state, formats)
    return folder


def write_weights(folder: Path, state: dict[str, torch.Tensor], formats: Iterable[str]) -> None:
    """Write tensors under each of the file names `SAFETENSORS` and `PICKLE` that are given."""
    for name in formats:
        if name == PICKLE:
            torch.save(state, folder / name)
        else:
            save_file(state, folder / name, {"format": "pt"})


def _position_ids(config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The integer buffers that openai's checkpoints carry and today's transformers ignores."""
    vision, text = config["vision_config"], config["text_config"]
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    positions = torch.arange(text["max_position_embeddings"])[None]
    return {
        "vision_model.embeddings.position_ids": torch.arange(patches + 1)[None],
        "text_model.embeddings.position_ids": positions,
    }


def _write_decoys(folder: Path) -> None:
    for name in ("tf_model.h5", "flax_model.msgpack", "README.md", "merges.txt"):
        (folder / name).write_bytes(b"not for a builder\n")
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json"):
        (folder / name).write_text("{}\n")
