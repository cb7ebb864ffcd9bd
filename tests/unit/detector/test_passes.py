import numpy as np
import pytest
from clip_deepfake.engines import Features, Logits, Pixels, run_pass
from clip_deepfake.errors import EngineMemoryError


class Small:
    """Has room for a few pictures at a time; answers each with its first pixel."""

    name = "small"
    exact = True

    def __init__(self, room: int) -> None:
        self.room = room
        self.passes: list[int] = []

    def __call__(self, pixels: Pixels) -> Logits:
        self.passes.append(len(pixels))
        if len(pixels) > self.room:
            raise EngineMemoryError("out of memory")
        return pixels[:, 0, 0, :1].astype(np.float32)

    def features(self, pixels: Pixels) -> Features:
        return self(pixels)


PIXELS = np.arange(7, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)


@pytest.mark.parametrize(
    ("room", "passes"),
    [(7, [7]), (4, [7, 3, 4]), (2, [7, 3, 1, 2, 4, 2, 2])],
)
def test_what_does_not_fit_is_halved_until_it_does(room: int, passes: list[int]) -> None:
    engine = Small(room)
    assert run_pass(engine, PIXELS)[:, 0].tolist() == list(range(7))
    assert engine.passes == passes


def test_where_not_one_picture_fits_there_is_no_answer() -> None:
    with pytest.raises(EngineMemoryError):
        run_pass(Small(0), PIXELS)
