"""Finds the boxes of frontal faces in an image: dlib's detector, exact or bounded.

dlib (http://dlib.net/face_detector.py.html) doubles the image, makes copies of it, each 5/6 of the
one before, and looks in each for faces of one size. Nearly all the time goes into the largest
copies, which hold the smallest faces. Bounded, the search begins at the largest copy that the bound
allows. That copy is made in one step but for the last few, which are dlib's own: they decide how
sharp it is, and so which of several boxes around a face is the most certain one.
"""

import copy
import math
import threading
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from clip_deepfake.errors import LoadError
from clip_deepfake.images import RGB

INSTALL = "pip install 'clip-deepfake[faces]' (or dlib-bin alone)"

SIDE = 72
"""From a box's first column to its last on the copy in which the face was found; 80, which is less
than a copy more, where it reaches beyond the left or the top."""

RATIO = 6 / 5
"""Of a copy's width and height to those of the next."""

UPSAMPLINGS = 1

OWN_STEPS = 4
"""Of 39 photographs of 12 megapixels, the box of 3 is another without any, of 1 with these."""


class Box(NamedTuple):
    """A face's place in pixels of the image; the last column and row belong to it."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def area(self) -> int:
        """Pixels in it, those outside the image included."""
        return (self.right - self.left + 1) * (self.bottom - self.top + 1)


def import_dlib() -> Any:
    """Imports dlib, which only detectors that align faces need.

    Raises:
        LoadError: when it is not installed, or does not fit this machine.
    """
    try:
        return import_module("dlib")
    except ImportError as error:
        raise LoadError(
            f"aligning faces needs dlib, which cannot be imported ({error}): {INSTALL}"
        ) from error


class FrontalDetector:
    """Finds faces; threads may share it."""

    def __init__(self, scan_pixels: int | None) -> None:
        """Loads dlib and its detector.

        Args:
            scan_pixels: pixels of the largest copy that is searched; None searches all, from the
                one of twice the image's width and height.

        Raises:
            LoadError: when dlib is not installed.
        """
        self._scan_pixels = scan_pixels
        self._smaller = import_dlib().pyramid_down(6)
        self._detector = _dlibs_detector()
        self._own = threading.local()

    def find(self, image: RGB, *, whole: bool = False) -> list[Box]:
        """Returns the box of each face, the most certain one first.

        Args:
            image: uint8 (height, width, 3), RGB, contiguous.
            whole: searches every copy, whatever the bound.
        """
        level = 0 if whole else self._level(image)
        if level == 0:
            return [_box(found) for found in self._thread_detector()(image, UPSAMPLINGS)]
        copied = self._copy(image, level)
        return [_in_image(_box(found), level) for found in self._thread_detector()(copied, 0)]

    def _copy(self, image: RGB, level: int) -> RGB:
        """One copy of the series, as sharp as dlib's where it can hold a face."""
        # dlib's own step writes beyond the end of an image of one row.
        steps = min(level, OWN_STEPS) if min(_copy_size(image, level)) >= SIDE else 0
        size = _copy_size(image, level - steps)
        grows = size[0] > image.shape[1]
        copied: RGB = cv2.resize(
            image, size, interpolation=cv2.INTER_LINEAR if grows else cv2.INTER_AREA
        ).astype(np.uint8, copy=False)
        for _ in range(steps):
            copied = self._smaller(copied)
        return copied

    def _level(self, image: RGB) -> int:
        """The first copy of the series that is within the bound."""
        level = 0
        while self._scan_pixels and math.prod(_copy_size(image, level)) > self._scan_pixels:
            level += 1
        return level

    def _thread_detector(self) -> Any:
        """This thread's own: two must not share one, and a copy takes 1/300 of the making."""
        if not hasattr(self._own, "detector"):
            self._own.detector = copy.deepcopy(self._detector)
        return self._own.detector


@cache
def _dlibs_detector() -> Any:
    """To be copied; a process makes it once."""
    return import_dlib().get_frontal_face_detector()


def _copy_size(image: RGB, level: int) -> tuple[int, int]:
    """Width and height of a copy, as dlib rounds them (`pyramid_up`, `pyramid_down<6>`)."""
    height, width = 2 * image.shape[0] + 1, 2 * image.shape[1] + 2
    for _ in range(level):
        height, width = 5 * height // 6, 5 * width // 6
    return max(width, 1), max(height, 1)


def _box(found: Any) -> Box:
    return Box(found.left(), found.top(), found.right(), found.bottom())


def _in_image(box: Box, level: int) -> Box:
    """Takes a box from a copy to the image, by dlib's own steps and roundings.

    dlib rounds to whole pixels when it has taken a box from the copy in which it was found to the
    doubled image, and again from there to the image. A box on a smaller first copy was rounded too
    early: its place on its own copy is restored first.

    Args:
        box: on the copy of ``level`` that the detector was given.
        level: of that copy; its doubled original is 0.
    """
    corners = np.array(box, np.float64)
    # Above 0 by a rounding or by log(80 / 72), below it by a rounding: never by as much as 0.2.
    below = math.floor(math.log((box.right - box.left) / SIDE, RATIO) + 0.2)
    for _ in range(below):
        corners = (corners - 0.3) / RATIO
    corners = _whole(corners)
    for _ in range(below + level):
        corners = corners * RATIO + 0.3
    left, top, right, bottom = _whole(corners)
    halved = np.array([left / 2 - 1.25, top / 2 - 0.75, right / 2 - 1.25, bottom / 2 - 0.75])
    return Box(*_whole(halved).astype(int).tolist())


def _whole(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rounds as dlib does: halves up."""
    return np.floor(values + 0.5)
