"""Image files in, small pictures that a page holds within itself out; needs `evaluate`."""

import base64
from pathlib import Path

import cv2
import numpy as np
from clip_deepfake import errors
from clip_deepfake.images import RGB, decode

from deepfake_tools.evaluation.distortions import MAX_PIXELS, encode

SIDE = 220
"""The longer side in pixels: sharp at half of it on a phone."""


def data_uri(path: Path) -> str | None:
    """Returns a small JPEG of the image as a data URI, or None where it cannot be read any more."""
    try:
        image = decode(path.read_bytes(), MAX_PIXELS, "opencv-5")
    except (OSError, ValueError, errors.ImageError):
        return None
    encoded = encode(_small(image), ".jpg", (cv2.IMWRITE_JPEG_QUALITY, 80))
    return f"data:image/jpeg;base64,{base64.b64encode(encoded).decode()}"


def _small(image: RGB) -> RGB:
    height, width = image.shape[:2]
    scale = min(SIDE / max(height, width), 1)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
