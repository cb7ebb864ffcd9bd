import base64
import io

import numpy as np
from clip_deepfake.overlay import FAKE, REAL, draw
from PIL import Image


def test_colours_are_those_of_the_sign_and_as_strong_as_the_part() -> None:
    grid = [[1.0, 0.0], [-1.0, 0.5]]
    white = np.full((448, 448, 3), 255, np.uint8)
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(draw(white, grid))))).astype(int)
    towards_fake, nothing = shown[112, 112], shown[112, 336]
    towards_real, half = shown[336, 112], shown[336, 336]
    assert np.abs(towards_fake - (0.25 * 255 + 0.75 * FAKE)).max() <= 1
    assert np.abs(towards_real - (0.25 * 255 + 0.75 * REAL)).max() <= 1
    assert (nothing == 255).all()
    assert np.abs(half - (255 + towards_fake) / 2).max() <= 2
    # No contribution at all is no division by zero.
    assert draw(white, [[0.0]])
