"""Counters of answered batches, and the times of their stages."""

import threading
from dataclasses import replace

import pytest
from clip_deepfake.errors import EmptyImageError, NoFaceError
from clip_deepfake.metrics import (
    COUNTERS,
    Increment,
    Spent,
    Stopwatch,
    Tally,
    Timings,
    probability_bin,
    size_class,
)
from clip_deepfake.verdicts import FacePlace, Verdict


def verdict(probability: float, face: FacePlace | None = None) -> Verdict:
    fake = probability > 0.5
    return Verdict(
        "FAKE" if fake else "REAL", 1 if fake else 0, 0.5, probability, 0.0, (0.0,), face
    )


def taken(tally: Tally) -> list[Increment]:
    """What was counted since the last time."""
    increments: list[Increment] = []
    tally.report(increments.append)
    return increments


def grown(increments: list[Increment]) -> dict[tuple[str, str], float]:
    """What is not zero, by name and value of the label."""
    return {
        (entry.counter.name.removeprefix("clip_deepfake_"), entry.value): entry.amount
        for entry in increments
        if entry.amount
    }


def test_every_known_value_begins_at_zero() -> None:
    first = taken(Tally())
    assert {entry.amount for entry in first} == {0.0}
    assert {entry.counter for entry in first} == set(COUNTERS)


def test_a_batch_is_counted_once() -> None:
    tally = Tally()
    taken(tally)
    results = [
        verdict(0.03),
        verdict(0.04, FacePlace(True, 1)),
        verdict(0.97, FacePlace(False, 0)),
        EmptyImageError("nothing"),
        NoFaceError("none"),
    ]
    tally.add(3, results, Timings(decode=Spent(0.25, 4), engine=Spent(0.5, 3)))
    assert grown(taken(tally)) == {
        ("batches_total", "3-4"): 1,
        ("verdicts_total", "REAL"): 2,
        ("verdicts_total", "FAKE"): 1,
        ("fake_probability_total", "0.00-0.05"): 2,
        ("fake_probability_total", "0.95-1.00"): 1,
        ("fake_probability_sum_total", "REAL"): pytest.approx(0.07),
        ("fake_probability_sum_total", "FAKE"): pytest.approx(0.97),
        ("refused_images_total", "empty_image"): 1,
        ("refused_images_total", "no_face"): 1,
        ("face_searches_total", "true"): 1,
        ("face_searches_total", "false"): 2,
        ("stage_seconds_total", "decode"): 0.25,
        ("stage_pictures_total", "decode"): 4,
        ("stage_seconds_total", "engine"): 0.5,
        ("stage_pictures_total", "engine"): 3,
    }
    assert taken(tally) == []


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        (0.01, {"0.01", "0.05", "0.1", "1"}),
        (0.011, {"0.05", "0.1", "1"}),
        (0.1, {"0.1", "1"}),
        (1.0, {"1"}),
        (None, set()),
    ],
)
def test_a_share_counts_at_each_bound_from_it_on(rate: float | None, expected: set[str]) -> None:
    tally = Tally()
    taken(tally)
    tally.add(1, [replace(verdict(0.5), false_alarm_rate=rate)], Timings())
    found = grown(taken(tally))
    assert {bound for name, bound in found if name == "false_alarm_rates_total"} == expected


@pytest.mark.parametrize(
    ("probability", "expected"),
    [
        (0.0, "0.00-0.05"),
        (0.05, "0.05-0.10"),
        (0.29999, "0.25-0.30"),
        (0.3, "0.30-0.35"),
        (0.55, "0.55-0.60"),
        (0.999, "0.95-1.00"),
        (1.0, "0.95-1.00"),
    ],
)
def test_a_bin_holds_its_lower_end(probability: float, expected: str) -> None:
    assert probability_bin(probability) == expected


def test_every_bound_of_a_bin_lies_in_the_bin_above_it() -> None:
    assert [probability_bin(step / 20)[:4] for step in range(20)] == [
        f"{step / 20:.2f}" for step in range(20)
    ]


@pytest.mark.parametrize(
    ("requests", "expected"),
    [(1, "1"), (2, "2"), (3, "3-4"), (4, "3-4"), (5, "5-8"), (8, "5-8"), (9, "9-16"), (64, "33-64"),
     (65, "65-"), (999, "65-")],
)  # fmt: skip
def test_batches_are_classed_by_their_requests(requests: int, expected: str) -> None:
    assert size_class(requests) == expected


def test_no_batch_is_lost_between_two_threads() -> None:
    tally = Tally()
    taken(tally)
    reported: list[float] = []
    done = threading.Event()

    def report() -> None:
        while not done.is_set():
            reported.extend(entry.amount for entry in taken(tally))

    thread = threading.Thread(target=report)
    thread.start()
    for _ in range(20_000):
        tally.add(1, [], Timings())
    done.set()
    thread.join()
    assert sum(reported) + sum(entry.amount for entry in taken(tally)) == 20_000


def test_a_report_waits_for_one_that_has_begun() -> None:
    tally = Tally()
    taken(tally)
    tally.add(1, [], Timings())
    sending, go_on = threading.Event(), threading.Event()
    reported: list[Increment] = []

    def send_slowly(increment: Increment) -> None:
        sending.set()
        assert go_on.wait(10)
        reported.append(increment)

    slow = threading.Thread(target=tally.report, args=(send_slowly,))
    slow.start()
    assert sending.wait(10)
    second = threading.Thread(target=tally.report, args=(reported.append,))
    second.start()
    second.join(0.05)
    assert second.is_alive()
    go_on.set()
    second.join(10)
    assert [(entry.value, entry.amount) for entry in reported] == [("1", 1)]
    slow.join(10)


def test_what_could_not_be_sent_is_sent_the_next_time() -> None:
    tally = Tally()
    taken(tally)
    tally.add(1, [verdict(0.03)], Timings())
    sent: list[Increment] = []

    def send(increment: Increment) -> None:
        if len(sent) == 2:
            raise OSError("the log is full")
        sent.append(increment)

    with pytest.raises(OSError, match="full"):
        tally.report(send)
    tally.add(1, [verdict(0.04)], Timings())
    rest = taken(tally)
    assert rest
    for name in ("batches_total", "verdicts_total", "fake_probability_total"):
        counted = [entry.amount for entry in (*sent, *rest) if entry.counter.name.endswith(name)]
        assert sum(counted) == 2


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
    stages = ["decode", "align", "preprocess", "engine", "explain"]
    assert [name for name, _ in Timings().stages()] == stages
