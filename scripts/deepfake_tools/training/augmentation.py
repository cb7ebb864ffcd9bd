"""What happens to an image at random before it is trained on, by a recipe's settings."""

import cv2
import numpy as np
from clip_deepfake.images import RGB

from deepfake_tools.evaluation.perturbations import Perturbation, disturb
from deepfake_tools.training.recipes import Augmentation


def augment(image: RGB, settings: Augmentation, seed: int) -> RGB:
    """Changes an image; equal seeds change it equally.

    The order is DeepfakeBench's: flip, rotation, blur, brightness and contrast, JPEG last, as an
    image is sent. Blur and JPEG are those of ``client.py --perturb``.

    Args:
        image: uint8 (height, width, 3), RGB; stays as it is.
        settings: what may happen, and how strongly.
        seed: of the random numbers, from 0.

    Returns:
        uint8 (height, width, 3), RGB.
    """
    rng = np.random.default_rng(seed)
    # Drawn before anything is decided, so that one setting does not move another's numbers.
    flip, rotate, blur, tone, jpeg = rng.random(5)
    angle, brightness, contrast = rng.uniform(-1, 1, 3)
    deviation, quality = rng.random(2)
    if flip < settings.flip:
        image = image[:, ::-1]
    if settings.rotate and rotate < settings.chance:
        image = _rotated(image, angle * settings.rotate)
    if settings.blur and blur < settings.chance:
        low, high = settings.blur
        image = disturb(image, Perturbation("blur", low + deviation * (high - low)), seed)
    if (settings.brightness or settings.contrast) and tone < settings.chance:
        image = _toned(image, brightness * settings.brightness, contrast * settings.contrast)
    if settings.jpeg and jpeg < settings.chance:
        lowest, highest = settings.jpeg
        strength = lowest + int(quality * (highest - lowest + 1))
        image = disturb(image, Perturbation("jpeg", strength), seed)
    return np.ascontiguousarray(image)


def _rotated(image: RGB, degrees: float) -> RGB:
    height, width = image.shape[:2]
    # OpenCV counts pixels by their centres, so that the middle of n of them is (n - 1) / 2.
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    turned = cv2.warpAffine(image, turn, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    return turned.astype(np.uint8, copy=False)


def _toned(image: RGB, brightness: float, contrast: float) -> RGB:
    """Adds a share of 255 and scales values, both at once; what leaves 0 to 255 is cut."""
    levels = np.arange(256) * (1 + contrast) + 255 * brightness
    table: RGB = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    toned: RGB = table[image]
    return toned
