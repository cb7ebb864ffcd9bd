import numpy as np
import pytest
from clip_deepfake.similarity import similarity, template
from skimage.transform import SimilarityTransform

from tests.reference_alignment import reference_matrix

FIVE = np.array([[203, 101], [247, 103], [226, 125], [206, 141], [244, 142]], np.float32)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("mirrored", [False, True])
def test_the_matrix_is_scikit_images_to_the_bit(seed: int, mirrored: bool) -> None:
    rng = np.random.default_rng(seed)
    source = rng.integers(0, 4000, (5, 2)).astype(np.float32)
    target = template(224, 1.3)
    if mirrored:
        source = FIVE * np.float32([-1, 1]) + rng.integers(0, 9, (5, 2)).astype(np.float32)
    expected = SimilarityTransform.from_estimate(source, target).params[:2]
    assert np.array_equal(similarity(source, target), expected)


def test_the_template_is_the_published_one() -> None:
    found = similarity(FIVE, template(224, 1.3))
    assert np.array_equal(found, reference_matrix(FIVE))


def test_points_that_are_one_have_no_matrix() -> None:
    assert similarity(np.full((5, 2), 7, np.float32), template(224, 1.3)) is None


def test_points_on_a_line_have_one() -> None:
    line = np.array([[0, 0], [10, 10], [20, 20], [30, 30], [40, 40]], np.float32)
    matrix = similarity(line, template(224, 1.3))
    assert matrix is not None
    assert np.isfinite(matrix).all()
    scale = np.linalg.det(matrix[:, :2])
    assert scale > 0, "the face is turned, not mirrored"
