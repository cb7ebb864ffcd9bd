"""Bytes in, RGB image out: bounded, turned as its EXIF data says, or an error to act on."""

import os
from typing import NamedTuple, cast

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
from clip_deepfake.headers import Header, check_inflation, read_header

RGB = npt.NDArray[np.uint8]
"""Image as uint8 (height, width, 3), channels in the order red, green, blue."""

# OpenCV writes a line to stderr for every damaged file; the error that is raised says it better.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class Size(NamedTuple):
    """What an image's header says of it.

    Attributes:
        width: in pixels, as stored.
        height: likewise.
        work: what decoding costs at most, in pixels of an ordinary photograph; never below width
            times height. A budget of several images is counted in it.
    """

    width: int
    height: int
    work: int


def decode(data: bytes | bytearray, max_pixels: int) -> RGB:
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
    header = _checked_header(data, max_pixels)
    if header.inflated is not None:
        try:
            check_inflation(data, header.inflated)
        except HeaderError as error:
            raise _untrusted(error) from error
    image = _pixels(data)
    if image is None or sorted(image.shape[:2]) != sorted((header.height, header.width)):
        raise TruncatedImageError(
            f"the image says that it is {header.width}x{header.height} pixels, but they cannot be "
            "read; the file is cut short or damaged"
        )
    return image


def checked_size(data: bytes | bytearray, max_pixels: int) -> Size:
    """Reads an image's size without decoding it, and refuses what no decoder may see.

    Args:
        data: the whole file.
        max_pixels: largest width times height.

    Raises:
        ImageError: as `decode` does, for what the header shows.
    """
    header = _checked_header(data, max_pixels)
    return Size(header.width, header.height, header.width * header.height)


def _checked_header(data: bytes | bytearray, max_pixels: int) -> Header:
    if not data:
        raise EmptyImageError("the image has no bytes; send the content of an image file")
    try:
        header = read_header(data)
    except HeaderError as error:
        raise _untrusted(error) from error
    if header is None:
        raise ImageError(f"the {len(data)} bytes are not a JPEG, PNG, WebP, BMP, TIFF or GIF image")
    width, height = header.width, header.height
    if width < 1 or height < 1:
        raise EmptyImageError(f"the image is {width}x{height} pixels; it needs at least one")
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"the image has {width}x{height} pixels, over the limit of {max_pixels}; scale it down"
        )
    return header


def _untrusted(error: HeaderError) -> TruncatedImageError:
    return TruncatedImageError(
        f"the image's header cannot be trusted: {error}; the file is cut short or damaged"
    )


def _pixels(data: bytes | bytearray) -> RGB | None:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        return None
    return cast(RGB | None, image)
