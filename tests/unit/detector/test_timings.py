import pytest
from clip_deepfake.timings import Spent, Stopwatch, Timings


def test_watches_are_summed_stage_by_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 2.0, 10.0, 10.5, 20.0, 21.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    first, second = Stopwatch(), Stopwatch()
    with first.timing("decode"):
        pass
    with first.timing("engine", pictures=3):
        pass
    with second.timing("decode"):
        pass
    assert Stopwatch.total([first, second]) == Timings(decode=Spent(3.0, 2), engine=Spent(0.5, 3))


def test_what_failed_took_its_time_too() -> None:
    watch = Stopwatch()
    with pytest.raises(ValueError, match="broken"), watch.timing("align"):
        raise ValueError("broken")
    assert Stopwatch.total([watch]).align.pictures == 1


def test_stages_are_told_in_the_order_of_the_work() -> None:
    assert [name for name, _ in Timings().stages()] == ["decode", "align", "preprocess", "engine"]
