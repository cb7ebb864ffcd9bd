"""Alignment written again, from the published description, with nothing of ours: a yardstick."""

import cv2
import dlib
import numpy as np
import numpy.typing as npt
from skimage.transform import SimilarityTransform

SIZE = 224
DETECT = dlib.get_frontal_face_detector()


def reference_points(
    image: npt.NDArray[np.uint8], predictor: str, rectangle: "dlib.rectangle | None" = None
) -> npt.NDArray[np.float32] | None:
    """The five points of the largest face, or of the face in a rectangle; None without a face."""
    if rectangle is None:
        found = DETECT(image, 1)
        if not found:
            return None
        rectangle = max(found, key=lambda box: box.width() * box.height())
    shape = dlib.shape_predictor(predictor)(image, rectangle)
    five = [shape.part(index) for index in (37, 44, 30, 49, 55)]
    return np.array([[point.x, point.y] for point in five], dtype=np.float32)


def reference_matrix(points: npt.NDArray[np.float32], size: int = SIZE) -> npt.NDArray[np.float64]:
    """What brings them onto the template of so many pixels with a margin of 1.3."""
    x = np.array([30.2946, 65.5318, 48.0252, 33.5493, 62.7299], dtype=np.float32) + np.float32(8)
    y = np.array([51.6963, 51.5014, 71.7366, 92.3655, 92.2041], dtype=np.float32)
    border = size * (1.3 - 1) / 2
    target = np.stack([x, y], axis=1) * size / 112 + border
    target *= size / (size + 2 * border)
    return SimilarityTransform.from_estimate(points, target.astype(np.float32)).params[:2]


def reference_crop(
    image: npt.NDArray[np.uint8],
    predictor: str,
    rectangle: "dlib.rectangle | None" = None,
    size: int = SIZE,
) -> npt.NDArray[np.uint8] | None:
    """That face, aligned, uint8 (size, size, 3); None without a face."""
    points = reference_points(image, predictor, rectangle)
    if points is None:
        return None
    return cv2.warpAffine(image, reference_matrix(points, size), (size, size))
