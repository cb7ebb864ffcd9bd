"""A preset's name and a checkpoint's own settings in, preprocessing for the card out."""

import json
from pathlib import Path
from typing import Any

import msgspec
from clip_deepfake.preprocessing import CLIP_MEAN, CLIP_STD, Preprocessing, squash

from deepfake_tools.hub import BuildError

PRESETS = ("squash", "clip")

# Pillow's numbers for its filters, as preprocessor_config.json has them.
RESAMPLE = {2: "bilinear", 3: "bicubic"}


def resolve_preset(name: str, side: int, folder: Path) -> Preprocessing:
    """Makes the settings of a preset for one encoder.

    Args:
        name: ``squash``, the research script's, or ``clip``, the checkpoint's own.
        side: of the encoder's square input, in pixels.
        folder: holds the checkpoint's ``preprocessor_config.json``.

    Raises:
        BuildError: when the checkpoint's own settings are missing or cannot be followed.
    """
    if name == "squash":
        return squash(side)
    path = folder / "preprocessor_config.json"
    try:
        settings = json.loads(path.read_bytes())
        recipe = _processor_recipe(settings, side)
    except FileNotFoundError as error:
        raise BuildError(
            "--preprocess clip needs the checkpoint's preprocessor_config.json, which it lacks; "
            "use --preprocess squash"
        ) from error
    except (ValueError, AttributeError, TypeError, KeyError, OSError) as error:
        raise BuildError(f"preprocessor_config.json cannot be followed: {error}") from error
    if recipe.steps and recipe.steps[-1].size == side:
        return recipe
    raise BuildError(
        f"preprocessor_config.json does not end in {side}x{side} pixels, which the encoder takes; "
        "use --preprocess squash"
    )


def _processor_recipe(settings: dict[str, Any], side: int) -> Preprocessing:
    """Follows the settings of transformers' CLIPImageProcessor, Pillow-backed."""
    if (
        settings.get("do_rescale", True) is not True
        or settings.get("do_normalize", True) is not True
    ):
        raise ValueError("it does not rescale and normalise, as CLIP's encoders need")
    if abs(settings.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-9:
        raise ValueError(f"rescale_factor {settings['rescale_factor']} is not 1/255")
    steps: list[dict[str, Any]] = []
    if settings.get("do_resize", True):
        steps.append(_resize(settings, side))
    if settings.get("do_center_crop", True):
        size = settings.get("crop_size", side)
        edges = set(size.values()) if isinstance(size, dict) else {size}
        if len(edges) != 1:
            raise ValueError(f"crop_size {size} is no square")
        steps.append({"step": "center_crop", "size": edges.pop(), "convention": "transformers"})
    return msgspec.convert(
        {
            "name": "clip",
            "steps": steps,
            "mean": settings.get("image_mean", CLIP_MEAN),
            "std": settings.get("image_std", CLIP_STD),
        },
        Preprocessing,
    )


def _resize(settings: dict[str, Any], side: int) -> dict[str, Any]:
    resample = settings.get("resample", 3)
    if resample not in RESAMPLE:
        raise ValueError(f"resample {resample} is neither bilinear (2) nor bicubic (3)")
    size = settings.get("size", side)
    if not isinstance(size, dict):
        size = {"shortest_edge": size}
    fit, edge = "shortest_side", size.get("shortest_edge")
    if edge is None:
        fit, edge = "squash", size["height"]
        if edge != size["width"]:
            raise ValueError(f"size {size} is no square")
    return {
        "step": "resize",
        "fit": fit,
        "size": edge,
        "library": "pillow",
        "interpolation": RESAMPLE[resample],
    }
