"""Bytes in, RGB image out: bounded, turned as its EXIF data says, or an error to act on."""

import io
import os
from typing import cast

# OpenCV reads its own ceiling once, at import. It is the second fence: the header check below is
# the first, and a file that shows one size to Pillow and another to OpenCV meets this one.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 28))

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from clip_deepfake.errors import (
    EmptyImageError,
    ImageError,
    ImageTooLargeError,
    TruncatedImageError,
)

RGB = npt.NDArray[np.uint8]
"""Image as uint8 (height, width, 3), channels in the order red, green, blue."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")

# OpenCV writes a line to stderr for every damaged file; the error that is raised says it better.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def decode(data: bytes | bytearray | memoryview, max_pixels: int) -> RGB:
    """Decodes an image as OpenCV's colour reading does, since research code reads with it.

    Args:
        data: a JPEG, PNG, WebP, BMP, TIFF or GIF (its first frame).
        max_pixels: largest width times height; checked in the header, before any decoding.

    Returns:
        uint8 (height, width, 3) RGB. Alpha is dropped, 16 bits become 8, grey is repeated.

    Raises:
        EmptyImageError: no bytes, or no pixels.
        ImageTooLargeError: over ``max_pixels``.
        TruncatedImageError: known format, but pixels are missing or damaged.
        ImageError: none of the formats.
    """
    if not data:
        raise EmptyImageError("the image has no bytes; send the content of an image file")
    width, height = _size_in_header(data)
    if width < 1 or height < 1:
        raise EmptyImageError(f"the image is {width}x{height} pixels; it needs at least one")
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"the image has {width}x{height} pixels, over the limit of {max_pixels}; scale it down"
        )
    image = _pixels(data)
    if image is None or sorted(image.shape[:2]) != sorted((height, width)):
        raise TruncatedImageError(
            f"the image says that it is {width}x{height} pixels, but they cannot be read; "
            "the file is cut short or damaged"
        )
    return image


def _size_in_header(data: bytes | bytearray | memoryview) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as header:
            return header.size
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(f"{error}; scale the image down") from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"the {len(data)} bytes are not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image"
        ) from error
    except Exception as error:
        # A format that was recognised; Pillow raises a dozen kinds for what may be wrong with it.
        raise TruncatedImageError(
            f"the image's header cannot be read ({error}); the file is cut short or damaged"
        ) from error


def _pixels(data: bytes | bytearray | memoryview) -> RGB | None:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        return None
    return cast(RGB | None, image)
