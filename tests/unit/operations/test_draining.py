from typing import Any

import pytest
from deepfake_tools.inspection import ArchiveName
from deepfake_tools.operations import draining
from deepfake_tools.operations.draining import NotDrainedError, drain, settle
from deepfake_tools.torchserve.answers import ModelVersion, WorkerStatus

ARCHIVE = ArchiveName("m", "1")
ANSWER_S = 0.002


class Clock:
    """Time that passes by pauses and answers alone."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds


class TwoWorkers:
    """Two workers, of which one is busy for some seconds and the other one answers at once."""

    def __init__(self, clock: Clock, busy_s: float, pending: int = 0) -> None:
        self._clock = clock
        self._idle_at = clock.now + busy_s
        self._pending = pending
        self.asked = 0

    def version(self, name: str, version: str) -> ModelVersion:
        workers = (WorkerStatus("0", "READY", 100), WorkerStatus("1", "READY", 101))
        return ModelVersion("m", "1", "m@1.mar", 2, 2, 1, self._pending, workers)

    def ask_handler(self, name: str, version: str, timeout: float | None = None) -> object:
        self.asked += 1
        self._clock.now += ANSWER_S
        is_idle = self._clock.now >= self._idle_at
        return {"pid": 101 if is_idle and self.asked % 2 else 100}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(draining, "time", clock)
    return clock


@pytest.mark.parametrize("busy_s", [0.0, 0.1, 1.0, 10.0, 100.0])
def test_an_idle_worker_is_asked_seldom_while_its_sibling_is_busy(clock: Clock, busy_s: float):
    workers: Any = TwoWorkers(clock, busy_s)
    start = clock.now

    drain(workers, ARCHIVE, 150)

    late_s = clock.now - start - busy_s
    # Two questions may be needed, since the idle one may take the first.
    assert late_s <= 0.2 + 2.5 * min(0.1 * busy_s, 1.0)
    assert workers.asked <= 45 + busy_s


def test_an_idle_worker_is_asked_seldom_until_the_time_is_over(clock: Clock):
    workers: Any = TwoWorkers(clock, 1e9)
    start = clock.now
    with pytest.raises(NotDrainedError, match="1 worker busy"):
        drain(workers, ARCHIVE, 60)
    assert clock.now - start == pytest.approx(60, abs=0.01)
    assert workers.asked <= 100


def test_requests_that_never_cease_do_not_make_more_questions(clock: Clock):
    workers: Any = TwoWorkers(clock, 0, pending=3)
    with pytest.raises(NotDrainedError):
        settle(workers, ARCHIVE, 60)
    assert workers.asked <= 200
