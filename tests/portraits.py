"""Photographs with faces, and landmark predictors trained on them on the spot.

The faces are scikit-image's: its astronaut, and 100 of Labeled Faces in the Wild, 25 pixels wide.
"""

from functools import cache
from pathlib import Path

import cv2
import dlib
import numpy as np
import numpy.typing as npt
import skimage.data

RGB = npt.NDArray[np.uint8]

# Where the template's five points lie on the astronaut (512 x 512), read off the photograph.
ASTRONAUT = [(203.0, 101.0), (247.0, 103.0), (226.0, 125.0), (206.0, 141.0), (244.0, 142.0)]

# And on the mean of the enlarged faces (200 x 200).
ENLARGED = [(50.0, 69.0), (129.0, 68.0), (86.0, 108.0), (56.0, 140.0), (113.0, 140.0)]

FIVE = (37, 44, 30, 49, 55)


@cache
def faces() -> RGB:
    """Faces of 100 people, uint8 (100, 200, 200, 3)."""
    grey = (skimage.data.lfw_subset()[:100] * 255).astype(np.uint8)
    large = [cv2.resize(face, (200, 200), interpolation=cv2.INTER_CUBIC) for face in grey]
    return np.stack([cv2.cvtColor(face, cv2.COLOR_GRAY2RGB) for face in large])


def photograph(height: int, width: int, placed: list[tuple[int, int, int, int]]) -> RGB:
    """Paints faces on a grey ground with a little noise.

    Args:
        height: in pixels.
        width: in pixels.
        placed: for each face its number in `faces`, the left and top of its picture, and its side.
    """
    rng = np.random.default_rng(0)
    image = np.full((height, width, 3), 110, np.uint8)
    everyone = faces()
    for number, left, top, side in placed:
        face = cv2.resize(everyone[number], (side, side), interpolation=cv2.INTER_CUBIC)
        # A picture may reach beyond the edges.
        rows = slice(max(top, 0), min(top + side, height))
        columns = slice(max(left, 0), min(left + side, width))
        image[rows, columns] = face[
            rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
        ]
    noisy = image + rng.normal(0, 3, image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def encode(image: RGB, kind: str = ".png") -> bytes:
    """The image as a file's content."""
    return cv2.imencode(kind, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def train_predictor(path: Path, points: int) -> Path:
    """Trains a small predictor, a second or two, and writes it.

    It follows a face's turn and shift within its box, as a large one does, if less exactly: all but
    the template's five points are copies of these.

    Args:
        path: of the file.
        points: that it places.
    """
    options = dlib.shape_predictor_training_options()
    options.cascade_depth, options.num_trees_per_cascade_level, options.tree_depth = 6, 40, 3
    options.oversampling_amount, options.feature_pool_size, options.nu = 10, 200, 0.2
    images, boxes, fives = zip(*_examples(), strict=True)
    shapes = [[_shape(box, five, points)] for box, five in zip(boxes, fives, strict=True)]
    dlib.train_shape_predictor(list(images), shapes, options).save(str(path))
    return path


@cache
def _examples() -> list[tuple[RGB, "dlib.rectangle", npt.NDArray[np.float64]]]:
    """Faces turned by a few degrees and shifted, the detector's box, and their five points."""
    rng = np.random.default_rng(0)
    detect = dlib.get_frontal_face_detector()
    astronaut = skimage.data.astronaut()[:300, 80:380]
    sources = [(astronaut, [(x - 80, y) for x, y in ASTRONAUT])] * 6
    sources += [
        (
            cv2.copyMakeBorder(face, 40, 40, 40, 40, cv2.BORDER_REPLICATE),
            [(x + 40, y + 40) for x, y in ENLARGED],
        )
        for face in faces()[:30]
    ]
    examples = []
    for image, five in sources:
        side = image.shape[0]
        turn = cv2.getRotationMatrix2D(
            (side / 2, side / 2), rng.uniform(-15, 15), rng.uniform(0.9, 1.1)
        )
        turn[:, 2] += rng.uniform(-6, 6, 2)
        turned = cv2.warpAffine(image, turn, (side, side), borderMode=cv2.BORDER_REPLICATE)
        boxes = detect(turned, 0)
        if boxes:
            moved = np.array(five) @ turn[:, :2].T + turn[:, 2]
            box = max(boxes, key=lambda found: found.area())
            examples.append((turned, box, moved))
    return examples


def _shape(
    box: "dlib.rectangle", five: npt.NDArray[np.float64], points: int
) -> "dlib.full_object_detection":
    parts = [dlib.point(*np.rint(five[index % 5]).astype(int).tolist()) for index in range(points)]
    for index, (x, y) in zip(FIVE, np.rint(five).astype(int).tolist(), strict=True):
        if index < points:
            parts[index] = dlib.point(x, y)
    return dlib.full_object_detection(box, parts)
