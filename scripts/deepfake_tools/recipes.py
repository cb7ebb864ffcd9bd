"""A preset's name or a JSON file in, preprocessing for the card out."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from clip_deepfake.preprocessing import (
    CLIP_MEAN,
    CLIP_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    CenterCrop,
    Preprocessing,
    Resize,
    Step,
    TileCrop,
    squash,
)

from deepfake_tools.hub import BuildError
from deepfake_tools.json_file import read_json_object

PROCESSOR = "preprocessor_config.json"
NESTED_PROCESSOR = "processor_config.json"
"""What transformers 5 writes for a whole processor: the same settings, under image_processor."""

# Pillow's numbers for its filters, as preprocessor_config.json has them.
RESAMPLE = {2: "bilinear", 3: "bicubic"}

HALF = (0.5, 0.5, 0.5)


def clip(side: int) -> Preprocessing:
    """The encoder's own, which is Pillow's bicubic resize of the shorter side and a centre crop."""
    steps: list[Step] = [
        Resize("shortest_side", side, "pillow", "bicubic"),
        CenterCrop(side, "transformers"),
    ]
    return Preprocessing("clip", steps, CLIP_MEAN, CLIP_STD, "pillow")


def squash_cubic(side: int) -> Preprocessing:
    """DeepfakeBench's: OpenCV's bicubic resize to the square, mean and std 0.5.

    Its preprocessing/preprocess.py cuts faces at 256 pixels (``res=256``), which its dataset then
    resizes to the encoder's side: training/dataset/abstract_dataset.py, ``load_rgb``.
    """
    resize = Resize("squash", side, "opencv", "bicubic")
    return Preprocessing("squash-cubic", [resize], HALF, HALF, face_side=256)


def crop(side: int) -> Preprocessing:
    """UniversalFakeDetect's: centre crop without a resize, black around smaller images."""
    steps: list[Step] = [CenterCrop(side, "torchvision")]
    return Preprocessing("crop", steps, CLIP_MEAN, CLIP_STD, "pillow")


def tile_crop(side: int) -> Preprocessing:
    """Effort's for generated images: small ones repeated up to 8/7 of the side, centre crop."""
    # The published code tiles to 256 and crops 224.
    steps: list[Step] = [TileCrop(side, side * 8 // 7, "torchvision")]
    return Preprocessing("tile-crop", steps, CLIP_MEAN, CLIP_STD, "pillow")


def resize_crop(side: int) -> Preprocessing:
    """C2P-CLIP's: Pillow's bilinear resize of the shorter side, centre crop."""
    steps: list[Step] = [
        Resize("shortest_side", side, "pillow", "bilinear"),
        CenterCrop(side, "torchvision"),
    ]
    return Preprocessing("resize-crop", steps, CLIP_MEAN, CLIP_STD, "pillow")


def pad_crop(side: int) -> Preprocessing:
    """DRCT's: black around smaller images, centre crop, ImageNet's mean and std."""
    steps: list[Step] = [CenterCrop(side, "albumentations")]
    return Preprocessing("pad-crop", steps, IMAGENET_MEAN, IMAGENET_STD)


PRESETS: Mapping[str, Callable[[int], Preprocessing]] = {
    "squash": squash,
    "clip": clip,
    "squash-cubic": squash_cubic,
    "crop": crop,
    "tile-crop": tile_crop,
    "resize-crop": resize_crop,
    "pad-crop": pad_crop,
}
"""Each takes the side of the encoder's input in pixels."""


def resolve_preset(name: str, side: int, folder: Path | None) -> Preprocessing:
    """Makes the settings for one encoder.

    Args:
        name: a preset's name, or the path of a JSON file with ``steps``, ``mean`` and ``std``, and
            at will ``orientation`` and ``face_side``, as a card has them under ``preprocessing``.
        side: of the encoder's square input, in pixels.
        folder: of the encoder's checkpoint, whose ``processor_config.json`` or
            ``preprocessor_config.json`` the preset ``clip`` follows; None for an encoder that came
            without one.

    Raises:
        BuildError: when the settings are missing, cannot be followed, or do not end in a square of
            this side.
    """
    if name.endswith(".json"):
        recipe, origin = _read_recipe(Path(name)), name
    elif name == "clip" and folder is not None:
        recipe, origin = _read_processor(folder, side)
    elif name in PRESETS:
        recipe, origin = PRESETS[name](side), name
    else:
        raise BuildError(
            f"--preprocess {name} is neither a preset nor a .json file; presets are "
            f"{', '.join(PRESETS)}"
        )
    if recipe.side != side:
        raise BuildError(
            f"{origin} does not end in {side}x{side} pixels, which the encoder takes; "
            "use --preprocess squash, or a JSON file that ends in a squash or a crop to them"
        )
    return recipe


def _read_recipe(path: Path) -> Preprocessing:
    try:
        return msgspec.convert(read_json_object(path) | {"name": "custom"}, Preprocessing)
    except (OSError, ValueError) as error:
        raise BuildError(
            f"{path} is no preprocessing: {error}; it takes steps, mean and std as a card has them"
        ) from error


def _read_processor(folder: Path, side: int) -> tuple[Preprocessing, str]:
    """Follows the checkpoint's own settings, and names their file."""
    origin = NESTED_PROCESSOR
    try:
        settings = _nested_settings(folder / NESTED_PROCESSOR)
        if settings is None:
            origin = PROCESSOR
            settings = read_json_object(folder / PROCESSOR)
        return _processor_recipe(settings, side), origin
    except FileNotFoundError as error:
        raise BuildError(
            f"--preprocess clip needs the checkpoint's {PROCESSOR} or {NESTED_PROCESSOR}, which it "
            "lacks; use --preprocess squash"
        ) from error
    except (ValueError, AttributeError, TypeError, KeyError, OSError) as error:
        raise BuildError(f"{origin} cannot be followed: {error}") from error


def _nested_settings(path: Path) -> dict[str, Any] | None:
    """The image processor's part, which comes before a file of its own, as in transformers."""
    try:
        found = read_json_object(path).get("image_processor")
    except FileNotFoundError:
        return None
    return found if isinstance(found, dict) else None


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
            "orientation": "pillow",
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
