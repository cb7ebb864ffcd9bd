"""Draws a map of contributions over a picture, for whoever has no other use of numbers."""

import base64
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from clip_deepfake.engines import Pixels
from clip_deepfake.images import RGB

# The ends of ColorBrewer's PuOr (colorbrewer2.org), which nobody's colour blindness mixes up.
FAKE = np.array((230, 97, 1), np.float32)
REAL = np.array((94, 60, 153), np.float32)

STRONGEST = 0.75
"""Of the colour where a contribution is the largest; the picture shows through."""

LEAST_SIDE = 448
"""In pixels: smaller pictures are enlarged, so that the scale can be read."""

BAR, BORDER = 14, 28
"""Heights of the scale's colours and of the words below."""


def draw(pixels: Pixels, grid: Sequence[Sequence[float]]) -> str:
    """Draws a map over a picture, with a scale below.

    Args:
        pixels: uint8 (side, side, 3).
        grid: contributions, row by row; orange towards FAKE, purple towards REAL.

    Returns:
        A PNG in base64.
    """
    side = max(LEAST_SIDE, pixels.shape[0])
    picture = cv2.resize(in_grey(pixels), (side, side), interpolation=cv2.INTER_CUBIC)
    values = np.asarray(grid, np.float32)
    largest = float(np.abs(values).max())
    shares = values / largest if largest else values
    spread = cv2.resize(shares, (side, side), interpolation=cv2.INTER_NEAREST)
    canvas = add_scale(tint(picture.astype(np.uint8), spread.astype(np.float32)), largest)
    _, png = cv2.imencode(".png", cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR))
    return base64.b64encode(png.tobytes()).decode()


def in_grey(pixels: Pixels) -> RGB:
    """A picture without colours, which would be taken for the map's."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def tint(picture: RGB, shares: npt.NDArray[np.float32]) -> RGB:
    """A picture with the map's colours mixed in.

    Args:
        picture: uint8 (height, width, 3).
        shares: float32 (height, width) in [-1, 1], of the largest contribution.
    """
    strength = STRONGEST * np.abs(shares)[..., None]
    colour = np.where(shares[..., None] > 0, FAKE, REAL)
    return np.rint(picture * (1 - strength) + colour * strength).astype(np.uint8)


def add_scale(picture: RGB, largest: float) -> RGB:
    """A picture with what the colours mean below it; ``largest`` is the strongest one's value."""
    width = picture.shape[1]
    shares = np.tile(np.linspace(-1, 1, width, dtype=np.float32), (BAR, 1))
    bar = tint(np.full((BAR, width, 3), 255, np.uint8), shares)
    words = np.full((BORDER, width, 3), 255, np.uint8)
    _write(words, f"REAL {-largest:.3g}", 0.0)
    _write(words, "0", 0.5)
    _write(words, f"FAKE +{largest:.3g}", 1.0)
    return np.concatenate([picture, bar, words])


def _write(canvas: RGB, text: str, place: float) -> None:
    """Writes a text from the left at 0, in the middle at 0.5, up to the right at 1."""
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.5
    (width, height), _ = cv2.getTextSize(text, font, size, 1)
    left = round(4 + place * (canvas.shape[1] - 8 - width))
    cv2.putText(canvas, text, (left, (BORDER + height) // 2), font, size, (0, 0, 0), 1, cv2.LINE_AA)
