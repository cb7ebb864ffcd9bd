"""Image bytes in, the bytes of the same image made worse out; needs the extra `evaluate`."""

import hashlib
from collections.abc import Sequence

import cv2
import numpy as np
from clip_deepfake import errors
from clip_deepfake.images import RGB, Orientation, decode

from deepfake_tools.errors import ImageRefusedError

MAX_PIXELS = 50_000_000
"""Width times height of an image that is taken; a worker takes as many by default."""

# Fast rather than small: the server is near, and the next image waits.
PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1)


def distort(data: bytes, kind: str, strength: float, orientation: Orientation) -> bytes:
    """Decodes, distorts and encodes; `perturbations.perturb` says how.

    Args:
        data: The bytes of an image file.
        kind: jpeg, blur, resize or noise.
        strength: In the kind's unit.
        orientation: Which images are turned as their EXIF data says.

    Raises:
        ImageRefusedError: The bytes are no image, damaged, or over `MAX_PIXELS`.
    """
    try:
        image = decode(data, MAX_PIXELS, orientation)
    except errors.ImageError as error:
        raise ImageRefusedError(str(error)) from error
    if kind == "jpeg":
        return encode(image, ".jpg", (cv2.IMWRITE_JPEG_QUALITY, int(strength)))
    if kind == "blur":
        return encode(blurred(image, strength), ".png", PNG)
    if kind == "resize":
        return encode(smaller(image, strength), ".png", PNG)
    if kind == "noise":
        return encode(noisy(image, strength, data), ".png", PNG)
    raise ValueError(f"no such kind of perturbation: {kind}")


def blurred(image: RGB, deviation: float) -> RGB:
    """Blurs by a Gaussian of this standard deviation in pixels, mirrored at the edges."""
    return cv2.GaussianBlur(image, (0, 0), deviation).astype(np.uint8, copy=False)


def smaller(image: RGB, factor: float) -> RGB:
    """Scales width and height by a factor of at most 1, to one pixel at least, by area."""
    height, width = image.shape[:2]
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def noisy(image: RGB, deviation: float, data: bytes) -> RGB:
    """Adds Gaussian noise of this standard deviation in grey levels, drawn by the bytes."""
    seed = int.from_bytes(hashlib.sha256(data).digest(), "big")
    noise = np.random.default_rng(seed).standard_normal(image.shape, dtype=np.float32)
    return np.clip(np.rint(image + np.float32(deviation) * noise), 0, 255).astype(np.uint8)


def encode(image: RGB, extension: str, settings: Sequence[int]) -> bytes:
    """Returns the image as a file of the extension's format."""
    _, encoded = cv2.imencode(extension, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), settings)
    return encoded.tobytes()
