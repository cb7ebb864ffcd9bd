"""Translates a repository's own image processor into this project's preprocessing.

transformers' processor says what it does, and is not what serves: the card's steps are followed by
one function, in the builder, in training and in a worker. Whether they do the same is found by
asking both about a few images.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from clip_deepfake.preprocessing import Preprocessing
from PIL import Image
from transformers import AutoImageProcessor

from deepfake_tools.packaging.hub import PROCESSOR_SETTINGS, BuildError
from deepfake_tools.untrusted_files import read_json_object

RESAMPLE = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers for its filters."""

LEVEL = 1.001
"""Of 255, the largest difference of a pixel's value: both round, and not at the same moment."""

SIZES = ((640, 480), (301, 452), (224, 224), (97, 61))
"""Width and height of the images that both are asked about."""

TORCHVISION_ALONE = "DINOv3ViTImageProcessor"
"""Has no Pillow form. It resizes with antialiasing, on floats, by torch's own function."""

Pixels = npt.NDArray[np.float64]


def own_preprocessing(folder: Path, side: int) -> Preprocessing:
    """Makes preprocessing of a repository's image processor.

    Args:
        folder: of the repository.
        side: of the encoder's input, in pixels.

    Raises:
        BuildError: when there is no processor, or it does something else.
    """
    if not any((folder / name).is_file() for name in PROCESSOR_SETTINGS):
        raise BuildError(
            f"the checkpoint has no image processor ({' or '.join(PROCESSOR_SETTINGS)}); use "
            "--preprocess squash, or another preset that its head was trained with"
        )
    _refuse_what_is_no_object(folder)
    kind, settings, reference = _processor(folder)
    try:
        found = msgspec.convert(_recipe(settings), Preprocessing)
        if found.side != side:
            ending = "no square" if found.side is None else f"{found.side} pixels"
            raise ValueError(f"it ends in {ending}, and the encoder takes {side} pixels")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BuildError(
            f"the checkpoint's {kind} cannot be followed: {error}; use a preset or a JSON file"
        ) from error
    worst = max(_difference(found, reference, size, seed) for seed, size in enumerate(SIZES))
    if worst > LEVEL:
        raise BuildError(
            f"the checkpoint's {kind} does what this project does not: pixels differ by "
            f"{worst:.1f} of 255; use a preset or a JSON file that its head was trained with"
        )
    return found


def own_side(folder: Path) -> int | None:
    """Side of the square that a repository's own image processor ends in, in pixels.

    Returns:
        None where there is no processor, or none that can be followed.
    """
    if not any((folder / name).is_file() for name in PROCESSOR_SETTINGS):
        return None
    try:
        _refuse_what_is_no_object(folder)
        _, settings, _ = _processor(folder)
        return msgspec.convert(_recipe(settings), Preprocessing).side
    except (AttributeError, BuildError, KeyError, TypeError, ValueError):
        return None


def _refuse_what_is_no_object(folder: Path) -> None:
    """Before transformers reads it, without bounds."""
    for name in PROCESSOR_SETTINGS:
        try:
            read_json_object(folder / name)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise BuildError(
                f"the checkpoint's image processor cannot be followed: {name}: {error}"
            ) from error


def _processor(folder: Path) -> tuple[str, Any, Callable[[Image.Image], Pixels]]:
    """Its name, its settings as attributes, and what it makes of an image, (3, side, side)."""
    try:
        processor = AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
            folder, local_files_only=True
        )
    except ImportError as error:
        settings = _settings_of_torchvision_alone(folder)
        if settings is None:
            raise BuildError(
                "the checkpoint's image processor needs torchvision, which this project does "
                "without; use a preset or a JSON file that its head was trained with"
            ) from error
        return TORCHVISION_ALONE, settings, _resized_by_torch(settings)
    except Exception as error:
        # Each of transformers' processors refuses in its own way.
        reason = " ".join(str(error).split()).partition(". ")[0][:300]
        raise BuildError(
            f"the checkpoint's image processor cannot be read: {reason}; use a preset or a JSON "
            "file that its head was trained with"
        ) from error

    def reference(image: Image.Image) -> Pixels:
        pixels = processor(images=image, return_tensors="np")["pixel_values"]
        return np.asarray(pixels[0], np.float64)

    return type(processor).__name__, processor, reference


class _Settings:
    """What a file says of a processor whose class cannot be imported."""

    do_resize = do_rescale = do_normalize = True
    do_center_crop = False
    resample = 2
    rescale_factor = 1 / 255
    size: Any = None
    image_mean: Any = (0.485, 0.456, 0.406)
    image_std: Any = (0.229, 0.224, 0.225)

    def __init__(self, fields: dict[str, Any]) -> None:
        vars(self).update({key: value for key, value in fields.items() if hasattr(self, key)})


def _settings_of_torchvision_alone(folder: Path) -> _Settings | None:
    for name in PROCESSOR_SETTINGS:
        if (folder / name).is_file():
            fields = read_json_object(folder / name)
            fields = fields.get("image_processor", fields)
            kind = str(fields.get("image_processor_type")).removesuffix("Fast")
            return _Settings(fields) if kind == TORCHVISION_ALONE else None
    return None


def _resized_by_torch(settings: _Settings) -> Callable[[Image.Image], Pixels]:
    """Torchvision's resize of a tensor is torch's interpolation, antialiased."""

    def reference(image: Image.Image) -> Pixels:
        values = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
        size = (settings.size["height"], settings.size["width"])
        resized = torch.nn.functional.interpolate(
            values, size, mode="bilinear", antialias=True, align_corners=False
        )[0]
        mean, std = (np.reshape(v, (3, 1, 1)) for v in (settings.image_mean, settings.image_std))
        return np.asarray((resized.double().numpy() - mean) / std)

    return reference


def _recipe(settings: Any) -> dict[str, Any]:
    if not settings.do_rescale or not settings.do_normalize:
        raise ValueError("it does not rescale and normalise")
    if abs(settings.rescale_factor - 1 / 255) > 1e-9:
        raise ValueError(f"rescale_factor {settings.rescale_factor} is not 1/255")
    steps = []
    if settings.do_resize:
        steps.append(_resize(settings))
    if getattr(settings, "do_center_crop", False):
        edge = _square(settings.crop_size)
        steps.append({"step": "center_crop", "size": edge, "convention": "transformers"})
    return {
        "name": "own",
        "steps": steps,
        # transformers reads with Pillow.
        "orientation": "pillow",
        "mean": [float(value) for value in settings.image_mean],
        "std": [float(value) for value in settings.image_std],
    }


def _resize(settings: Any) -> dict[str, Any]:
    resample = int(settings.resample)
    if resample not in RESAMPLE:
        raise ValueError(f"resample {resample} is neither bilinear (2) nor bicubic (3)")
    shortest = _edge(settings.size, "shortest_edge")
    return {
        "step": "resize",
        "fit": "squash" if shortest is None else "shortest_side",
        "size": _square(settings.size) if shortest is None else shortest,
        "library": "pillow",
        "interpolation": RESAMPLE[resample],
    }


def _edge(size: Any, name: str) -> int | None:
    found = size.get(name) if isinstance(size, dict) else getattr(size, name, None)
    return None if found is None else int(found)


def _square(size: Any) -> int:
    height, width = _edge(size, "height"), _edge(size, "width")
    if height is None or height != width:
        raise ValueError(f"size {size} is no square")
    return height


def _difference(
    found: Preprocessing,
    reference: Callable[[Image.Image], Pixels],
    size: tuple[int, int],
    seed: int,
) -> float:
    """Largest difference of the two on one image, in levels of 255."""
    image = _image(size, seed)
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (found.mean, found.std))
    ours = (found.apply(image).transpose(2, 0, 1) / 255 - mean) / std
    theirs = reference(Image.fromarray(image))
    if ours.shape != theirs.shape:
        return 255.0
    return float((np.abs(ours - theirs) * std).max() * 255)


def _image(size: tuple[int, int], seed: int) -> npt.NDArray[np.uint8]:
    """A picture with soft slopes, hard edges and noise."""
    width, height = size
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    y, x = np.mgrid[:height, :width]
    slopes = np.stack([255 * x / width, 255 * y / height, 127 + 127 * np.sin(x * y / 500)], axis=-1)
    checks = ((x // 16 + y // 16) % 2 * 255)[..., None]
    mixed = 0.6 * slopes + 0.2 * checks + 0.2 * noise
    return np.asarray(np.clip(mixed, 0, 255), np.uint8)
