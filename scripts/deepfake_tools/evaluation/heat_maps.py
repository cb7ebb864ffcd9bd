"""A map of contributions over the photograph that it explains; needs the extra `evaluate`."""

import cv2
import numpy as np
from clip_deepfake import errors
from clip_deepfake.images import RGB, decode
from clip_deepfake.overlay import add_scale, in_grey, tint

from deepfake_tools.errors import ImageRefusedError
from deepfake_tools.evaluation.outcomes import Outcome
from deepfake_tools.evaluation.perturbations import MAX_PIXELS, smaller
from deepfake_tools.image_files import encode
from deepfake_tools.torchserve.answers import DetectorInfo, ServedExplanation

LONGEST_SIDE, LEAST_WIDTH = 1024, 448
"""Of the picture, in pixels; the scale's words need room, whatever the photograph's size."""

LINE = 26
"""Height of a line of words in pixels."""


def draw_map(
    data: bytes, explanation: ServedExplanation, outcome: Outcome, detector: DetectorInfo
) -> bytes:
    """Draws what an explanation says over the image, with a scale and the verdict below.

    Args:
        data: The image file's bytes, as they were asked about.
        explanation: Of the verdict on it.
        outcome: The verdict.
        detector: That gave it; it says which images are turned.

    Returns:
        A PNG file: the image in grey, orange where it speaks for FAKE, purple where for REAL.

    Raises:
        ImageRefusedError: The bytes are no image here.
    """
    try:
        image = decode(data, MAX_PIXELS, detector.orientation)
    except errors.ImageError as error:
        raise ImageRefusedError(str(error)) from error
    picture = in_grey(_sized(image))
    grid = np.asarray(explanation.grid, np.float32)
    largest = float(np.abs(grid).max())
    shares = _laid_out(grid / largest if largest else grid, explanation, image, picture)
    canvas = add_scale(_wide_enough(tint(picture, shares)), largest)
    words = f"{outcome.called}, fake_probability {outcome.fake_probability:.4f}"
    if detector.is_untrained:
        words += ", UNTRAINED: chance"
    return encode(_with_line(canvas, words))


def _sized(image: RGB) -> RGB:
    """Returns the image with a longer side within what the picture takes."""
    height, width = image.shape[:2]
    longest = max(height, width)
    if longest >= LEAST_WIDTH:
        return smaller(image, min(LONGEST_SIDE / longest, 1))
    factor = LEAST_WIDTH / longest
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    return cv2.resize(image, size, interpolation=cv2.INTER_CUBIC).astype(np.uint8)


def _wide_enough(picture: RGB) -> RGB:
    """Returns the picture with white beside it where words below would have no room."""
    missing = max(LEAST_WIDTH - picture.shape[1], 0)
    return np.pad(picture, ((0, 0), (0, missing), (0, 0)), constant_values=255)


def _laid_out(
    shares: np.ndarray, explanation: ServedExplanation, image: RGB, picture: RGB
) -> np.ndarray:
    """Returns the grid where it lies in the picture, float32 (height, width); 0 around it."""
    height, width = picture.shape[:2]
    rows, columns = shares.shape
    corners = explanation.corners_in(image.shape[1], image.shape[0])
    scale = np.array([width / image.shape[1], height / image.shape[0]], np.float32)
    # Pixels' centres lie half a pixel from their corners.
    place = np.array(corners, np.float32) * scale - 0.5
    own = np.array([(0, 0), (columns, 0), (columns, rows), (0, rows)], np.float32) - 0.5
    warp = cv2.getPerspectiveTransform(own, place)
    return cv2.warpPerspective(shares, warp, (width, height), flags=cv2.INTER_NEAREST)


def _with_line(canvas: RGB, words: str) -> RGB:
    line = np.full((LINE, canvas.shape[1], 3), 255, np.uint8)
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(line, words, (4, LINE - 8), font, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([canvas, line])
