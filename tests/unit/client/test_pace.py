import threading

import pytest
from deepfake_tools.client import pace as module
from deepfake_tools.client.pace import Pace, RunEndedError


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def room(pace: Pace) -> int:
    """How many images may be on their way in all."""
    turns = []
    while pace._has_room() and len(turns) < 1000:
        turns.append(pace.enter())
    for turn in turns:
        pace.leave(turn, 0)
    return sum(turns)


def test_the_first_image_goes_alone(clock: list[float]):
    pace = Pace(16, 15)
    assert pace.enter() == 1
    assert not pace._has_room()
    clock[0] = 100
    pace.leave(1, 0)
    assert room(pace) == 1, "an image that could not be read tells nothing of the server"
    assert not pace.has_answers


def test_a_slow_detector_gets_no_more_than_it_answers_in_half_an_attempt(clock: list[float]):
    pace = Pace(16, 15)
    clock[0] = 2.5
    pace.leave(pace.enter(), 1)
    assert room(pace) == 3  # 0.4 a second for 7.5 seconds
    clock[0] = 100
    assert room(pace) == 1, "there is always room for one"


def test_a_quick_detector_gets_several_images_in_a_request(clock: list[float]):
    pace = Pace(16, 15)
    clock[0] = 0.02
    pace.leave(pace.enter(), 1)
    assert pace.enter() == module.SEVERAL
    one_by_one = Pace(1, 15)
    clock[0] += 0.02
    one_by_one.leave(one_by_one.enter(), 1)
    assert one_by_one.enter() == 1


def test_the_end_wakes_everybody():
    pace = Pace(16, 15)
    pace.enter()
    ended = []

    def wait() -> None:
        with pytest.raises(RunEndedError):
            pace.enter()
        with pytest.raises(RunEndedError):
            pace.rest(60)
        ended.append(True)

    thread = threading.Thread(target=wait)
    thread.start()
    pace.close()
    thread.join(10)
    assert ended == [True]
