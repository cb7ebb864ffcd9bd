"""Five points of a face in, the matrix that moves them onto the template out."""

import numpy as np
import numpy.typing as npt

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
