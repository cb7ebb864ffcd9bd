import logging

import pytest
from clip_deepfake.errors import EngineMemoryError
from clip_deepfake.torch_engine import warm_up

from tests.unit.stand_in_engine import StandInEngine


def test_a_gpu_is_made_warm_for_every_power_of_two() -> None:
    engine = StandInEngine()
    warm_up(engine, 8)
    assert engine.largest_pass == 6
    assert engine.passes == [1, 2, 4]


def test_what_does_not_fit_ends_the_warm_up_and_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = StandInEngine(EngineMemoryError("24 GB are full"))
    with caplog.at_level(logging.WARNING):
        warm_up(engine, 8)
    assert engine.passes == [1]
    assert "1 pictures in one pass do not fit (24 GB are full)" in caplog.text
