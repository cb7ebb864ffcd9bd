"""Finds the faces of an image, turns them upright and cuts them out as detectors were trained.

The steps of DeepfakeBench's preprocessing/preprocess.py and of Effort's training/demo.py: dlib's
frontal detector, a dlib shape predictor on the whole image, five of its points onto a template.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import cv2
import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct

from clip_deepfake.archive_files import Sha256
from clip_deepfake.errors import LoadError
from clip_deepfake.face_detector import Box, FrontalDetector, import_dlib
from clip_deepfake.images import RGB

Points = npt.NDArray[np.float32]
"""Float32 (points, 2), x before y, in pixels."""

Matrix = npt.NDArray[np.float64]
"""Float64 (2, 3): [x', y'] = matrix @ [x, y, 1]."""

# DeepfakeBench, preprocessing/preprocess.py, `img_align_crop`: a lid point of the left eye and of
# the right, the nose's tip, the corners of the mouth, as they are seen, on 112 x 112 pixels.
TEMPLATE_SIDE = 112
TEMPLATE = (
    (30.2946, 51.6963),
    (65.5318, 51.5014),
    (48.0252, 71.7366),
    (33.5493, 92.3655),
    (62.7299, 92.2041),
)
# These were made for a picture 96 pixels wide: 8 on either side make it 112.
TEMPLATE_SHIFT = 8.0


def template(size: int, margin: float) -> Points:
    """Where the five points belong in a square.

    The published steps in float32 and in their order, so that the matrix is the same to the bit.

    Args:
        size: side of the square, in pixels.
        margin: how much more of the picture is shown than the template's own square; 1.3 shows
            1.3 times its side.

    Returns:
        float32 (5, 2).
    """
    points = np.array(TEMPLATE, np.float32)
    points[:, 0] += TEMPLATE_SHIFT
    points *= size
    points /= TEMPLATE_SIDE
    border = size * (margin - 1) / 2
    points += border
    points *= size / (size + 2 * border)
    return points


def similarity(source: Points, target: Points) -> Matrix | None:
    """The rotation, uniform scale and shift that bring one set of points closest to another.

    Least squares: Umeyama 1991, "Least-squares estimation of transformation parameters between two
    point patterns", equations 38 to 43, computed in the precision of the points.

    Args:
        source: float32 (points, 2).
        target: float32 (points, 2), where they belong.

    Returns:
        float64 (2, 3), or None where all source points are one.
    """
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    centred = source - source_mean
    variance = centred.var(axis=0).sum()
    if variance == 0:
        return None
    covariance = (target - target_mean).T @ centred / len(source)
    left, singular, right = np.linalg.svd(covariance)
    # A mirror image is nearer at times, and no rotation.
    signs = np.array([1.0, np.sign(np.linalg.det(left) * np.linalg.det(right))])
    rotation = left @ np.diag(signs) @ right
    scale = 1.0 / variance * (singular @ signs)
    shift = target_mean - scale * (rotation @ source_mean)
    return np.column_stack([rotation * scale, shift])


LANDMARKS = (37, 44, 30, 49, 55)
"""The template's points among a predictor's 68 or 81: the first 68 of both are those of iBUG."""

PointCount = Literal[68, 81]

SCAN_PIXELS = 2_500_000
"""The default bound: of 39 photographs of 12 megapixels, 38 crops are equal to the exact ones."""


WHOLE_PIXELS = 1_000_000
"""Images up to this size are searched whole under any bound: it takes no longer than the bounded
search of 12 megapixels."""

DOUBT_PIXELS = 4_000_000
"""Up to this size, one whose two largest faces are alike is searched whole too: which of them is
the largest is decided by a pixel, or by the copy of the series in which each was found."""

LIKENESS = 0.65
"""Of the areas of two faces, above which they are alike: one copy further, a box is 0.69 of it."""


class FaceAlignment(Struct, frozen=True, forbid_unknown_fields=True):
    """How faces are found and cut out; data, as the preprocessing is.

    Attributes:
        predictor: base name of the file that the landmark predictor was read from.
        sha256: digest of that file.
        points: that it places on a face.
        judged: the ``largest`` face of an image by the area of its box, or ``all``.
        on_no_face: what an image without a face is: judged as a ``whole``, or an ``error``.
        scan_pixels: pixels of the largest copy of an image that is searched for faces; None
            searches all, from the one of twice its width and height, as the research code does.
            Where that costs little it is done under any bound: see ``WHOLE_PIXELS``.
        most: of the faces of an image, no more than so many are judged, the largest ones.
        size: side of the crop, in pixels: the preprocessing's ``face_side``.
        margin: how much more it shows than the template's square.
    """

    predictor: str
    sha256: Sha256
    points: PointCount
    judged: Literal["largest", "all"] = "largest"
    on_no_face: Literal["whole", "error"] = "whole"
    scan_pixels: Annotated[int, Meta(ge=1)] | None = SCAN_PIXELS
    most: Annotated[int, Meta(gt=0, le=1024)] = 64
    size: Annotated[int, Meta(gt=0, le=4096)] = 224
    margin: Annotated[float, Meta(ge=1, le=10)] = 1.3


@dataclass(frozen=True)
class Face:
    """A face in an image.

    Attributes:
        box: the detector's.
        points: float32 (5, 2) of whole numbers, x before y, in the template's order.
        crop: uint8 (size, size, 3), RGB; black where it reaches beyond the image.
    """

    box: Box
    points: Points
    crop: RGB


@dataclass(frozen=True)
class Faces:
    """What was found in an image.

    Attributes:
        count: how many faces.
        judged: those to be judged, the largest one first.
    """

    count: int
    judged: list[Face]


class Aligner:
    """Finds, turns and cuts out faces; threads may share it.

    Attributes:
        alignment: how that is done.
    """

    def __init__(self, predictor: Path, alignment: FaceAlignment) -> None:
        """Loads dlib, its detector and the predictor.

        Args:
            predictor: dlib's serialisation of a shape predictor.
            alignment: how faces are found and cut out.

        Raises:
            LoadError: when dlib is not installed, or the file holds no predictor of as many points
                as ``alignment`` says.
        """
        self.alignment = alignment
        self._detector = FrontalDetector(alignment.scan_pixels)
        self._predictor, points = load_predictor(predictor)
        if points != alignment.points:
            raise LoadError(f"{predictor.name} places {points} points, not {alignment.points}")
        self._template = template(alignment.size, alignment.margin)

    def find(self, image: RGB) -> Faces:
        """Finds the faces of an image and cuts out those to be judged.

        Args:
            image: uint8 (height, width, 3), RGB.
        """
        image = np.ascontiguousarray(image)
        boxes = self._boxes(image)
        wanted = 1 if self.alignment.judged == "largest" else self.alignment.most
        cut = [self._cut(image, box) for box in boxes[:wanted]]
        return Faces(len(boxes), [face for face in cut if face is not None])

    def place(self, face: Face, points: Points) -> Points:
        """Where points of a crop are in the image that it was cut out of.

        Args:
            face: the crop's.
            points: float (points, 2), x before y, from the crop's outer edge.

        Returns:
            float64 (points, 2), from the image's outer edge.
        """
        matrix = similarity(face.points, self._template)
        if matrix is None:
            raise ValueError("a face that was cut out has its five points apart")
        # The matrix maps the middles of pixels, which are half a pixel from their edges.
        turned = np.linalg.solve(matrix[:, :2], (points - 0.5 - matrix[:, 2]).T)
        placed: Points = turned.T + 0.5
        return placed

    def _boxes(self, image: RGB) -> list[Box]:
        """The faces' boxes, the largest one first."""
        pixels = image.shape[0] * image.shape[1]
        boxes = _by_size(self._detector.find(image, whole=pixels <= WHOLE_PIXELS))
        if self.alignment.judged == "all" or not WHOLE_PIXELS < pixels <= DOUBT_PIXELS:
            return boxes
        if len(boxes) > 1 and boxes[1].area > LIKENESS * boxes[0].area:
            return _by_size(self._detector.find(image, whole=True))
        return boxes

    def _cut(self, image: RGB, box: Box) -> Face | None:
        points = place_landmarks(self._predictor, image, box)[list(LANDMARKS)]
        matrix = similarity(points, self._template)
        if matrix is None:
            return None
        size = (self.alignment.size, self.alignment.size)
        return Face(box, points, cv2.warpAffine(image, matrix, size).astype(np.uint8, copy=False))


def _by_size(boxes: list[Box]) -> list[Box]:
    return sorted(boxes, key=lambda box: -box.area)


def place_landmarks(predictor: Any, image: RGB, box: Box) -> Points:
    """Places a predictor's points on a face, float32 (points, 2) of whole numbers."""
    shape = predictor(image, import_dlib().rectangle(*box))
    return np.array([(part.x, part.y) for part in shape.parts()], np.float32).reshape(-1, 2)


def load_predictor(path: Path) -> tuple[Any, PointCount]:
    """Reads a landmark predictor.

    Args:
        path: of the file; it is parsed by dlib's own C++ code.

    Returns:
        dlib's ``shape_predictor``, and how many points it places.

    Raises:
        LoadError: when dlib is not installed, or the file cannot be used.
    """
    dlib = import_dlib()
    try:
        with path.open("rb"):
            predictor = dlib.shape_predictor(str(path))
    except OSError as error:
        raise LoadError(f"{path.name} cannot be read: {error.strerror}") from error
    except (RuntimeError, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise LoadError(
            f"{path.name} is not a dlib shape predictor, or is damaged: {reason}"
        ) from error
    # The file does not say how many; a face of any kind does.
    points = len(place_landmarks(predictor, np.zeros((9, 9, 3), np.uint8), Box(0, 0, 8, 8)))
    if points not in (68, 81):
        raise LoadError(
            f"{path.name} places {points} points on a face; alignment needs a predictor of 68 or "
            "81, numbered as in shape_predictor_68_face_landmarks.dat"
        )
    return predictor, cast(PointCount, points)
