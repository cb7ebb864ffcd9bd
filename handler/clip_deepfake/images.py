"""Decodes images: bytes to RGB, bounded, turned as research code turns it, or a helpful error."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition
from typing import Literal, cast

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
from clip_deepfake.formats import Bytes, Header
from clip_deepfake.formats.headers import read_header
from clip_deepfake.formats.png import inflate

RGB = npt.NDArray[np.uint8]
"""Image as uint8 (height, width, 3), channels in the order red, green, blue."""

Orientation = Literal["opencv-4", "opencv-5", "pillow"]
"""Whose reading decides which images are turned as their EXIF data says, seen on 4.6 to 4.12, 5.0
and Pillow 9.5 to 13: ``opencv-4`` turns JPEG and PNG, ``opencv-5`` WebP too, ``pillow`` (its
``convert("RGB")``) none of them. All turn TIFF, and BMP and GIF hold no such data."""

SHARE = 4
"""Threads whose images may be as large, together, as one image may be."""

# OpenCV writes a line to stderr for every damaged file; the error that is raised says it better.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def decode(data: Bytes, max_pixels: int, orientation: Orientation = "opencv-4") -> RGB:
    """Decodes an image as OpenCV's colour reading does, since research code reads with it.

    Args:
        data: a JPEG, PNG, WebP, BMP, TIFF or GIF (its first frame), or a HEIC, which OpenCV does
            not read: as Pillow does, turned as the file says.
        max_pixels: largest width times height; checked in the header, before any decoding.
        orientation: which formats are turned.

    Returns:
        uint8 (height, width, 3) RGB. Alpha is dropped, 16 bits become 8, grey is repeated.

    Raises:
        EmptyImageError: no bytes, or no pixels.
        ImageTooLargeError: over ``max_pixels``.
        TruncatedImageError: known format, but pixels are missing or damaged.
        UnsupportedImageError: known format, but a kind of it that is not decoded.
        ImageError: none of the formats.
    """
    return decode_behind(check_header(data, max_pixels), data, orientation)


def check_header(data: Bytes, max_pixels: int) -> Header:
    """Reads an image's header, and refuses what no decoder may see.

    Args:
        data: the whole file.
        max_pixels: largest width times height.

    Raises:
        ImageError: as `decode` does, for what the header shows.
    """
    if not data:
        raise EmptyImageError("the image has no bytes; send the content of an image file")
    try:
        header = read_header(data, max_pixels)
    except HeaderError as error:
        raise _untrusted(error) from error
    if header is None:
        raise ImageError(
            f"the {len(data)} bytes are not a JPEG, PNG, WebP, BMP, TIFF, GIF or HEIC image"
        )
    width, height = header.width, header.height
    if width < 1 or height < 1:
        raise EmptyImageError(f"the image is {width}x{height} pixels; it needs at least one")
    if header.pixels > max_pixels:
        raise ImageTooLargeError(
            f"the image has {width}x{height} pixels, over the limit of {max_pixels}; scale it down"
        )
    return header


def decode_behind(header: Header, data: Bytes, orientation: Orientation) -> RGB:
    """Decodes an image whose header is known, as `decode` does.

    Args:
        header: as `check_header` returned it.
        data: the whole file.
        orientation: which formats are turned.
    """
    image = _by_opencv(header, data, orientation) if header.reader == "opencv" else _by_pillow(data)
    if (
        image is None
        or sorted(image.shape[:2]) != sorted((header.height, header.width))
        or (header.one_colour_is_damage and image.min() == image.max())
    ):
        raise TruncatedImageError(
            f"the image says that it is {header.width}x{header.height} pixels, but they cannot be "
            "read; the file is cut short or damaged"
        )
    return image


def _by_opencv(header: Header, data: Bytes, orientation: Orientation) -> RGB | None:
    plain = data
    if header.inflated is not None:
        try:
            plain = inflate(data, header.inflated)
        except HeaderError as error:
            raise _untrusted(error) from error
    # Where the pixels end is known of the file as it came.
    return _whole(data if header.endings else plain, header, turned=_turns(data, orientation))


def _by_pillow(data: Bytes) -> RGB | None:
    """Decodes a HEIC as Pillow does with pillow-heif's plugin."""
    from pillow_heif import open_heif, options

    # Images are decoded beside one another as it is; one must not take the others' cores.
    options.DECODE_THREADS = 1
    try:
        file = open_heif(bytes(data), convert_hdr_to_8bit=True)
        picture = file[file.primary_index]
        picture.load()
        if picture.mode in ("RGB", "RGBA"):
            # What Pillow makes of them, without its copies: four bytes for each pixel, twice.
            width, _ = picture.size
            return np.ascontiguousarray(np.asarray(picture)[:, :width, :3])
        return np.asarray(picture.to_pillow().convert("RGB"))
    except (EOFError, LookupError, OSError, RuntimeError, SyntaxError, ValueError):
        return None


def _untrusted(error: HeaderError) -> TruncatedImageError:
    return TruncatedImageError(
        f"the image's header cannot be trusted: {error}; the file is cut short or damaged"
    )


def _whole(data: Bytes, header: Header, *, turned: bool) -> RGB | None:
    """Decodes an image, and makes sure that what stands behind its pixels is none of them."""
    if not header.endings:
        return _pixels(data, turned=turned)
    first, *others = header.endings
    image = _pixels(data[: header.end] + first, turned=turned)
    for ending in others:
        other = _pixels(data[: header.end] + ending, turned=turned)
        if image is not None and not _equal(image, other):
            return None
    return image


def _equal(image: RGB, other: RGB | None) -> bool:
    return other is not None and np.array_equal(image, other)


def _turns(data: Bytes, orientation: Orientation) -> bool:
    if orientation == "opencv-4":
        return data[8:12] != b"WEBP"
    return orientation == "opencv-5"


def _pixels(data: Bytes, *, turned: bool) -> RGB | None:
    flags = cv2.IMREAD_COLOR_RGB
    if not turned:
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    return cast(RGB | None, image)


class Room:
    """Bounds the pixels that several threads hold at a time, and with them their memory."""

    def __init__(self, max_pixels: int, threads: int) -> None:
        """Makes room.

        Args:
            max_pixels: of one image; so many there is room for in any case.
            threads: that decode.
        """
        self._pixels = max(max_pixels, max_pixels * threads // SHARE)
        self._held = 0
        self._changed = Condition()

    @contextmanager
    def holding(self, pixels: int) -> Iterator[None]:
        """Waits until there is room for an image, and keeps it while the block runs."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + pixels <= self._pixels)
            self._held += pixels
        try:
            yield
        finally:
            with self._changed:
                self._held -= pixels
                self._changed.notify_all()
