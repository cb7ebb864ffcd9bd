import threading

import pytest
from deepfake_tools.client import concurrency as module
from deepfake_tools.client.concurrency import RunEndedError, Throttle


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def room(throttle: Throttle) -> int:
    """How many images may be on their way in all."""
    turns = []
    while throttle._has_room() and len(turns) < 1000:
        turns.append(throttle.enter())
    for turn in turns:
        throttle.leave(turn)
    return sum(turns)


def test_the_first_image_goes_alone(clock: list[float]):
    throttle = Throttle(16, 15)
    assert throttle.enter() == 1
    assert not throttle._has_room()
    clock[0] = 100
    throttle.leave(1)
    assert room(throttle) == 1, "an image that could not be read tells nothing of the server"
    assert not throttle.has_answers


def test_a_slow_detector_gets_no_more_than_it_answers_in_half_an_attempt(clock: list[float]):
    throttle = Throttle(16, 15)
    clock[0] = 2.5
    throttle.enter()
    throttle.note_answers(1)
    throttle.leave(1)
    assert room(throttle) == 3  # 0.4 a second for 7.5 seconds
    clock[0] = 100
    assert room(throttle) == 1, "there is always room for one"


def test_a_quick_detector_gets_several_images_in_a_request(clock: list[float]):
    throttle = Throttle(16, 15)
    clock[0] = 0.02
    throttle.enter()
    throttle.note_answers(1)
    throttle.leave(1)
    assert throttle.enter() == module.SEVERAL
    one_by_one = Throttle(1, 15)
    clock[0] += 0.02
    one_by_one.enter()
    one_by_one.note_answers(1)
    one_by_one.leave(1)
    assert one_by_one.enter() == 1


def test_the_end_wakes_everybody():
    throttle = Throttle(16, 15)
    throttle.enter()
    ended = []

    def wait() -> None:
        with pytest.raises(RunEndedError):
            throttle.enter()
        with pytest.raises(RunEndedError):
            throttle.rest(60)
        ended.append(True)

    thread = threading.Thread(target=wait)
    thread.start()
    throttle.close()
    thread.join(10)
    assert ended == [True]
