"""Presets of preprocessing, by name, from a JSON file, or the encoder's own."""

from collections.abc import Callable, Mapping
from pathlib import Path

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

from deepfake_tools.packaging.hub import BuildError
from deepfake_tools.untrusted_files import read_json_object

HALF = (0.5, 0.5, 0.5)


def clip(side: int) -> Preprocessing:
    """The encoder's own, which is Pillow's bicubic resize of the shorter side and a centre crop."""
    steps: list[Step] = [
        Resize("shortest_side", side, "pillow", "bicubic"),
        CenterCrop(side, "transformers"),
    ]
    return Preprocessing("clip", steps, CLIP_MEAN, CLIP_STD, "pillow")


def dinov3(side: int) -> Preprocessing:
    """DINOv3's own: an antialiased bilinear resize to the square, ImageNet's mean and std.

    Source: ``DINOv3ViTImageProcessor`` of transformers. It resizes values that are not rounded, by
    torchvision, and Pillow's bilinear filter rounds: they are within a level of 255.
    """
    resize = Resize("squash", side, "pillow", "bilinear")
    return Preprocessing("dinov3", [resize], IMAGENET_MEAN, IMAGENET_STD, "pillow")


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
    "dinov3": dinov3,
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
        folder: of the encoder's checkpoint, whose own image processor the presets ``own`` and
            ``clip`` follow; None for an encoder that came without one.

    Raises:
        BuildError: when the settings are missing, cannot be followed, or do not end in a square of
            this side.
    """
    if name.endswith(".json"):
        recipe, origin = _read_recipe(Path(name)), name
    elif name == "own" or (name == "clip" and folder is not None):
        recipe, origin = _own(folder, side), "its image processor"
    elif name in PRESETS:
        recipe, origin = PRESETS[name](side), name
    else:
        raise BuildError(
            f"--preprocess {name} is neither a preset nor a .json file; presets are "
            f"own, {', '.join(PRESETS)}"
        )
    if recipe.side != side:
        raise BuildError(
            f"{origin} does not end in {side}x{side} pixels, which the encoder takes; "
            "use --preprocess squash, or a JSON file that ends in a squash or a crop to them"
        )
    return recipe


def _own(folder: Path | None, side: int) -> Preprocessing:
    if folder is None:
        raise BuildError("--preprocess own needs an encoder of its own, from the Hub or a folder")
    # transformers, which it needs, takes seconds to import.
    from deepfake_tools.packaging.image_processors import own_preprocessing

    return own_preprocessing(folder, side)


def _read_recipe(path: Path) -> Preprocessing:
    try:
        return msgspec.convert(read_json_object(path) | {"name": "custom"}, Preprocessing)
    except (OSError, ValueError) as error:
        raise BuildError(
            f"{path} is no preprocessing: {error}; it takes steps, mean and std as a card has them"
        ) from error
