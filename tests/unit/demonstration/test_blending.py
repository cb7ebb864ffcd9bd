import numpy as np
import pytest
from deepfake_tools.demonstration.blending import GRID, STRENGTH, manipulate


def changes(image: np.ndarray, seed: int) -> np.ndarray:
    copy = manipulate(image, np.random.default_rng(seed))
    assert copy.shape == image.shape
    assert copy.dtype == np.uint8
    return copy.astype(int) - image


@pytest.mark.parametrize("seed", range(5))
def test_the_middle_is_remade_and_the_corners_stay(seed: int) -> None:
    change = changes(np.full((112, 112, 3), 128, np.uint8), seed)
    corners = change[np.ix_([0, 1, -2, -1], [0, 1, -2, -1])]
    assert not corners.any()
    # On a plain image, what is left of the likeness is the grid that the enlargement leaves.
    middle = change[48:64, 48:64, 0]
    assert middle.max() == STRENGTH
    assert np.array_equal(middle[:-GRID], middle[GRID:])
    assert np.array_equal(middle[:, :-GRID], middle[:, GRID:])
    assert abs(middle.mean()) < 0.5


def test_details_are_lost_where_it_is_remade() -> None:
    stripes = np.zeros((112, 112, 3), np.uint8)
    stripes[:, ::2] = 200
    middle = (stripes + changes(stripes, 0))[48:64, 48:64, 0].astype(float)
    # The mean over a period of the grid has none of it, and would have all of the stripes.
    columns = middle.reshape(4, GRID, 16).mean(axis=(0, 1))
    assert np.ptp(columns) < 100


def test_the_random_numbers_decide_the_place() -> None:
    image = np.full((112, 112, 3), 128, np.uint8)
    assert np.array_equal(changes(image, 0), changes(image, 0))
    assert not np.array_equal(changes(image, 0), changes(image, 1))
