"""Photographs in, crops of them and manipulated copies of these in labelled folders out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from clip_deepfake.card import Limits
from clip_deepfake.images import RGB, decode
from PIL import Image

from deepfake_tools.demonstration.blending import manipulate

SIDE = 112
"""Of a crop, in pixels: half the input of most CLIPs, so the grid survives the enlargement."""

TRAINED_ON = 0.6
"""Part of a photograph's width, from the left, that is trained on; the rest is held out."""

PARTS = 2
"""Rows and columns that it is divided into; a folder holds the crops of one part."""


@dataclass(frozen=True)
class Pair:
    """A crop and its manipulated copy."""

    real: Path
    fake: Path


def write_training_crops(photographs: Sequence[Path], folder: Path, each: int) -> None:
    """Writes crops of the left of each photograph, and manipulated copies of them.

    Args:
        photographs: at least 400 pixels wide and 230 high.
        folder: gets ``real/NAME-PART/*.png`` and ``fake/NAME-PART/*.png``.
        each: crops of each part of a photograph.
    """
    rng = np.random.default_rng(0)
    for photograph in photographs:
        image = decode(photograph.read_bytes(), Limits().max_pixels)
        left = image[:, : int(image.shape[1] * TRAINED_ON)]
        parts = (p for row in np.array_split(left, PARTS) for p in np.array_split(row, PARTS, 1))
        for number, part in enumerate(parts, start=1):
            name = f"{photograph.stem}-{number}"
            for crop in range(each):
                files = Pair(
                    folder / "real" / name / f"{crop}.png", folder / "fake" / name / f"{crop}.png"
                )
                _write_pair(files, part, rng)


def write_held_out_crops(photographs: Sequence[Path], folder: Path, each: int) -> list[Pair]:
    """Writes crops of the right of each photograph, and manipulated copies of them.

    Args:
        photographs: at least 400 pixels wide and 230 high.
        folder: gets ``real/NAME-*.png`` and ``fake/NAME-*-manipulated.png``.
        each: crops of each photograph.

    Returns:
        The files. None of them has a pixel in common with the training crops.
    """
    rng = np.random.default_rng(1)
    pairs = []
    for photograph in photographs:
        image = decode(photograph.read_bytes(), Limits().max_pixels)
        right = image[:, int(image.shape[1] * TRAINED_ON) :]
        for number in range(1, each + 1):
            name = f"{photograph.stem}-{number}"
            pairs.append(
                Pair(folder / "real" / f"{name}.png", folder / "fake" / f"{name}-manipulated.png")
            )
            _write_pair(pairs[-1], right, rng)
    return pairs


def _write_pair(files: Pair, image: RGB, rng: np.random.Generator) -> None:
    height, width = image.shape[:2]
    left, top = rng.integers(width - SIDE + 1), rng.integers(height - SIDE + 1)
    crop = image[top : top + SIDE, left : left + SIDE]
    for path, pixels in ((files.real, crop), (files.fake, manipulate(crop, rng))):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
