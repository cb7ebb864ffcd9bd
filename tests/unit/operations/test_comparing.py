import itertools
from collections.abc import Callable, Iterator

import pytest
from deepfake_tools.client.records import Record
from deepfake_tools.errors import ModelNotServedError
from deepfake_tools.operations.comparing import WARM_UP, compare
from deepfake_tools.operations.comparison import CheckError, Tolerances

PATHS = ["a.png", "b.png", "c.png"]


class Version:
    """Answers at once, and says that it took as long as it was told to say."""

    def __init__(self, name: str, calls: list[tuple[str, str]], seconds: Iterator[float]) -> None:
        self._name = name
        self._calls = calls
        self._seconds = seconds

    def __call__(self, path: str) -> Record:
        self._calls.append((self._name, path))
        return Record(0, next(self._seconds), 0, prediction=0, fake_probability=0.25)


@pytest.fixture
def calls() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def version(calls) -> Callable[..., Version]:
    return lambda name, *seconds: Version(name, calls, itertools.cycle(seconds))


def test_both_are_asked_in_turns_and_each_is_first_as_often(version, calls):
    found = compare(version("old", 0.05), version("new", 0.05), PATHS, Tolerances(), timings=8)

    assert [pair.path for pair in found.pairs] == PATHS
    assert len(found.old_seconds) == len(found.new_seconds) == 8
    asked = calls[2 * WARM_UP :]
    pairs = list(zip(asked[::2], asked[1::2], strict=True))
    assert all({name for name, _ in pair} == {"old", "new"} for pair in pairs)
    assert all(one[1] == other[1] for one, other in pairs)
    assert sum(pair[0][0] == "old" for pair in pairs) in (4, 5)


def test_what_the_first_requests_took_does_not_count(version):
    slow_start = itertools.chain([9.0] * WARM_UP, itertools.repeat(0.05))

    found = compare(
        version("old", 0.05),
        version("new", *itertools.islice(slow_start, 200)),
        PATHS,
        Tolerances(),
        timings=50,
    )

    assert max(found.new_seconds) == 0.05


def test_one_slow_moment_is_measured_again(version, calls):
    moment = [0.05] * WARM_UP + [1.0] * 20 + [0.05] * 20

    found = compare(version("old", 0.05), version("new", *moment), PATHS, Tolerances(), timings=20)

    assert found.objections(Tolerances()) == []
    assert len(calls) == 2 * (WARM_UP + 20 + 20)


def test_a_slow_version_stays_slow(version):
    found = compare(version("old", 0.05), version("new", 0.08), PATHS, Tolerances(), timings=20)

    assert found.slowdown == pytest.approx(0.6)


def test_more_images_than_timings_are_asked_about_once(version, calls):
    paths = [str(number) for number in range(30)]

    compare(version("old", 0.05), version("new", 0.05), paths, Tolerances(), timings=20)

    assert len(calls) == 2 * (WARM_UP + 30)


def test_a_new_version_that_cannot_be_asked_is_refused(version):
    def gone(path: str) -> Record:
        raise ModelNotServedError("a version 2 is not served")

    with pytest.raises(CheckError, match="a version 2 is not served"):
        compare(version("old", 0.05), gone, PATHS, Tolerances())
    with pytest.raises(ModelNotServedError):
        compare(gone, version("new", 0.05), PATHS, Tolerances())
