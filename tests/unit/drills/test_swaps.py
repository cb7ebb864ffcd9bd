from benchmarks.load import Exchange
from tests.drills.swaps import Switch, judge_swaps

SWITCHES = [Switch("1", 0, 0), Switch("2", 10, 11), Switch("1", 20, 21)]


def test_answers_are_held_against_the_times_of_the_switches():
    right = [
        Exchange(1, 2, None, "1"),
        Exchange(9, 15, None, "1"),  # sent before the switch, answered after it
        Exchange(10.5, 15, None, "1"),  # sent while the server was about it
        Exchange(10.5, 10.6, None, "2"),
        Exchange(12, 13, None, "2"),
        Exchange(22, 23, None, "1"),
    ]
    wrong = [Exchange(12, 13, None, "1"), Exchange(1, 2, None, "2"), Exchange(22, 23, None, "2")]
    lost = Exchange(12, 13, None, None, "the connection broke")

    report = judge_swaps([*right, *wrong, lost], SWITCHES)

    assert report.wrong == wrong
    assert report.failed == [lost]
    assert str(report) == (
        "2 swaps: 10 requests sent, 9 answered, 1 failed, 3 by the wrong version "
        "(version 1: 5, version 2: 4)"
    )
