"""Maps over photographs: each part's colour where it lies, whatever the photograph's size."""

import cv2
import numpy as np
import pytest
from deepfake_tools.errors import ImageRefusedError
from deepfake_tools.evaluation.heat_maps import LEAST_WIDTH, LONGEST_SIDE, draw_map
from deepfake_tools.evaluation.outcomes import Outcome
from deepfake_tools.image_files import encode
from deepfake_tools.torchserve.answers import DetectorInfo, ServedExplanation

DETECTOR = DetectorInfo("m", None, "1", "trained", "float32", "openvino")
OUTCOME = Outcome(0, "a.png", None, "", 1, 0.75, 0.1)


def explanation(corners: tuple[tuple[float, float], ...] | None) -> ServedExplanation:
    return ServedExplanation("decomposition", ((2.0, -1.0), (0.0, 0.0)), 0.5, 1.5, 1, corners)


def drawn(height: int, width: int, corners: tuple[tuple[float, float], ...] | None) -> np.ndarray:
    """The drawing of a grey image, RGB."""
    data = encode(np.full((height, width, 3), 128, np.uint8))
    png = draw_map(data, explanation(corners), OUTCOME, DETECTOR)
    found = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert found is not None
    return found[..., ::-1].astype(int)


def test_parts_have_their_colours_where_they_lie() -> None:
    picture = drawn(600, 800, ((200, 100), (600, 100), (600, 500), (200, 500)))
    fake, real = picture[200, 300], picture[200, 500]
    assert fake[0] > 180
    assert fake[0] - fake[2] > 80, "orange"
    assert real[2] - real[1] > 10, "purple, and half as strong"
    for row, column in ((400, 300), (400, 500), (50, 400), (300, 100), (300, 700), (550, 400)):
        assert picture[row, column].tolist() == [128, 128, 128]


def test_a_turned_crop_s_parts_lie_turned() -> None:
    # A quarter turn: the grid's top left corner is the square's top right one.
    picture = drawn(600, 800, ((600, 100), (600, 500), (200, 500), (200, 100)))
    assert picture[200, 500][0] - picture[200, 500][2] > 80
    assert picture[200, 300].tolist() == [128, 128, 128]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (4000, 20), (20, 4000), (3000, 4000)])
def test_every_size_is_drawn_within_bounds(height: int, width: int) -> None:
    picture = drawn(height, width, None)
    assert LEAST_WIDTH <= picture.shape[1] <= LONGEST_SIDE
    assert picture.shape[0] <= LONGEST_SIDE + 100


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(ImageRefusedError):
        draw_map(b"nothing", explanation(None), OUTCOME, DETECTOR)
