"""An image in, a manipulated copy out: a part of it is remade and blended back in.

The method is that of self-blended images (Shiohara and Yamasaki, "Detecting Deepfakes with
Self-Blended Images", CVPR 2022): what is blended in comes from the image itself, so that nothing
but the traces of the manipulation tells the copy from the original.
"""

import cv2
import numpy as np
import numpy.typing as npt
from clip_deepfake.images import RGB

Floats = npt.NDArray[np.float32]

GRID = 4
"""Period of the traces, in pixels."""

STRENGTH = 48.0
"""How much brighter a quarter of the grid's pixels are; the others are darker to make up for it."""


def manipulate(image: RGB, rng: np.random.Generator) -> RGB:
    """Replaces the middle of an image by a crudely generated likeness of it.

    Args:
        image: uint8 (side, side, 3).
        rng: for the place and the shape of the part.

    Returns:
        uint8 (side, side, 3).
    """
    return manipulate_in(image, soft_oval(image.shape[0], rng))


def manipulate_in(image: RGB, mask: Floats) -> RGB:
    """Replaces a given part of an image in that way.

    Args:
        image: uint8 (side, side, 3).
        mask: how much of each pixel is replaced, from 0 to 1, float32 (side, side, 1).

    Returns:
        uint8 (side, side, 3).
    """
    blended: Floats = image * (1 - mask) + _regenerate(image) * mask
    return np.clip(np.rint(blended), 0, 255).astype(np.uint8)


def _regenerate(image: RGB) -> Floats:
    """Reduces an image to half and enlarges it as a careless generator does.

    A transposed convolution that overlaps unevenly leaves a grid: some pixels get more than
    others (Odena et al., "Deconvolution and Checkerboard Artifacts", Distill 2016).
    """
    side = image.shape[0]
    small = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    large = cv2.resize(small, (side, side), interpolation=cv2.INTER_LINEAR)
    cell = np.full((GRID, GRID), -STRENGTH / 3, np.float32)
    cell[: GRID // 2, : GRID // 2] = STRENGTH
    repeats = -(-side // GRID)
    grid: Floats = np.tile(cell, (repeats, repeats))[:side, :side, None]
    return large + grid


Range = tuple[float, float]

MIDDLE: Range = (0.42, 0.58)
LARGE: Range = (0.6, 0.8)


def soft_oval(
    side: int, rng: np.random.Generator, place: Range = MIDDLE, size: Range = LARGE
) -> Floats:
    """Chooses a part of an image.

    Args:
        side: of the image, in pixels.
        rng: for the place and the shape.
        place: of its centre, in sides.
        size: of its axes, in sides.

    Returns:
        As ``manipulate_in`` takes it.
    """
    mask = np.zeros((side, side), np.float32)
    centre = rng.uniform(*place, 2) * side
    axes = rng.uniform(*size, 2) * side
    cv2.ellipse(mask, (tuple(centre), tuple(axes), float(rng.uniform(0, 180))), 1, -1)
    return cv2.GaussianBlur(mask, (0, 0), side * 0.03).astype(np.float32)[..., None]
