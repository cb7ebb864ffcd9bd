"""Bytes in, RGB image out: bounded, turned as research code turns it, or an error to act on."""

import os
from typing import Literal, cast

# OpenCV reads its own ceiling once, at import. It is the second fence: the header check below is
# the first, and a file that shows one size there and another to OpenCV meets this one.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 28))

import cv2
import numpy as np
import numpy.typing as npt

from clip_deepfake.errors import (
    EmptyImageError,
    HeaderError,
    ImageError,
    ImageTooLargeError,
    TruncatedImageError,
)
from clip_deepfake.headers import check_inflation, read_header

RGB = npt.NDArray[np.uint8]
"""Image as uint8 (height, width, 3), channels in the order red, green, blue."""

Orientation = Literal["opencv-4", "opencv-5", "pillow"]
"""Whose reading decides which images are turned as their EXIF data says, seen on 4.6 to 4.12, 5.0
and Pillow 9.5 to 13: ``opencv-4`` turns JPEG and PNG, ``opencv-5`` WebP too, ``pillow`` (its
``convert("RGB")``) none of them. All turn TIFF, and BMP and GIF hold no such data."""

# OpenCV writes a line to stderr for every damaged file; the error that is raised says it better.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def decode(data: bytes | bytearray, max_pixels: int, orientation: Orientation = "opencv-4") -> RGB:
    """Decodes an image as OpenCV's colour reading does, since research code reads with it.

    Args:
        data: a JPEG, PNG, WebP, BMP, TIFF or GIF (its first frame).
        max_pixels: largest width times height; checked in the header, before any decoding.
        orientation: which formats are turned.

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
    width, height = _checked_size(data, max_pixels)
    image = _pixels(data, turned=_turns(data, orientation))
    if image is None or sorted(image.shape[:2]) != sorted((height, width)):
        raise TruncatedImageError(
            f"the image says that it is {width}x{height} pixels, but they cannot be read; "
            "the file is cut short or damaged"
        )
    return image


def _checked_size(data: bytes | bytearray, max_pixels: int) -> tuple[int, int]:
    """Reads width and height, and refuses what would cost more than an image of that size."""
    try:
        header = read_header(data)
        if header is None:
            raise ImageError(
                f"the {len(data)} bytes are not a JPEG, PNG, WebP, BMP, TIFF or GIF image"
            )
        width, height = header.width, header.height
        if width < 1 or height < 1:
            raise EmptyImageError(f"the image is {width}x{height} pixels; it needs at least one")
        if width * height > max_pixels:
            raise ImageTooLargeError(
                f"the image has {width}x{height} pixels, over the limit of {max_pixels}; "
                "scale it down"
            )
        if header.inflated is not None:
            check_inflation(data, header.inflated)
    except HeaderError as error:
        raise TruncatedImageError(
            f"the image's header cannot be trusted: {error}; the file is cut short or damaged"
        ) from error
    return width, height


def _turns(data: bytes | bytearray, orientation: Orientation) -> bool:
    if orientation == "opencv-4":
        return data[8:12] != b"WEBP"
    return orientation == "opencv-5"


def _pixels(data: bytes | bytearray, *, turned: bool) -> RGB | None:
    flags = cv2.IMREAD_COLOR_RGB
    if not turned:
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    return cast(RGB | None, image)
