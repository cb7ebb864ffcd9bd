import itertools
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
from deepfake_tools.client.images import Image
from deepfake_tools.errors import ModelNotServedError
from deepfake_tools.evaluation.outcomes import Outcome
from deepfake_tools.operations.version_check import (
    WARM_UP,
    CheckError,
    Comparison,
    Tolerances,
    VerdictPair,
    compare,
    find_files,
)
from deepfake_tools.percentiles import percentile

from tests.tinted_videos import cut_by_opencv, name_of, write_videos

PATHS = ["a.png", "b.png", "c.png"]


class Version:
    """Answers at once, and says that it took as long as it was told to say."""

    def __init__(self, name: str, calls: list[tuple[str, str]], seconds: Iterator[float]) -> None:
        self._name = name
        self._calls = calls
        self._seconds = seconds

    def __call__(self, path: str) -> Outcome:
        self._calls.append((self._name, path))
        return Outcome(0, path, None, "", 0, 0.25, next(self._seconds))


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
    def gone(path: str) -> Outcome:
        raise ModelNotServedError("a version 2 is not served")

    with pytest.raises(CheckError, match="a version 2 is not served"):
        compare(version("old", 0.05), gone, PATHS, Tolerances())
    with pytest.raises(ModelNotServedError):
        compare(gone, version("new", 0.05), PATHS, Tolerances())


def judged(probability: float, seconds: float = 0.05) -> Outcome:
    prediction = int(probability > 0.5)
    return Outcome(0, "", None, "", prediction, probability, seconds)


FAILED = Outcome(0, "", None, "", None, None, 0.01, "internal_error", "?", exit_code=5)


def comparison(*pairs: tuple[Outcome, Outcome]) -> Comparison:
    found = [VerdictPair(f"{number}.png", old, new) for number, (old, new) in enumerate(pairs)]
    return Comparison(
        found,
        [pair.old.seconds for pair in found if pair.old.error is None],
        [pair.new.seconds for pair in found if pair.new.error is None],
    )


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95, 0.99, 1.0])
@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_quantiles_are_numpys(share, count):
    values = np.random.default_rng(count).random(count).tolist()

    assert percentile(values, share) == pytest.approx(np.quantile(values, share))


def test_two_versions_that_agree_have_nothing_against_each_other():
    same = comparison(*[(judged(0.1), judged(0.2))] * 10)

    assert same.objections(Tolerances()) == []
    text = "\n".join(same.lines())
    assert "changed by 0.1000 on average, 0.1000 at most" in text
    assert "100.00% agree, 0 flipped" in text


def test_flips_are_named_the_largest_first():
    found = comparison(
        *[(judged(0.1), judged(0.1))] * 17, (judged(0.4), judged(0.6)), (judged(0.9), judged(0.1))
    )

    assert found.objections(Tolerances(min_agreement=17 / 19)) == []
    (objection,) = found.objections(Tolerances())
    assert objection == "89.47% of the labels agree, below 95.00%"
    assert list(found.lines())[-2:] == [
        "    FAKE 0.9000 -> REAL 0.1000  18.png",
        "    REAL 0.4000 -> FAKE 0.6000  17.png",
    ]


def test_many_flips_are_counted():
    found = comparison(*[(judged(0.1), judged(0.9))] * 25)

    assert list(found.lines())[-1] == "    and 5 more"


@pytest.mark.parametrize(("failures", "refused"), [(0, False), (1, True)])
def test_a_point_more_of_errors_is_too_much(failures, refused):
    pairs = [(judged(0.1), FAILED)] * failures + [(judged(0.1), judged(0.1))] * (100 - failures)

    assert bool(comparison(*pairs).objections(Tolerances())) == refused


def test_images_that_neither_judges_are_nobodys_fault():
    pairs = [(FAILED, FAILED)] * 50 + [(judged(0.1), judged(0.1))] * 50

    assert comparison(*pairs).objections(Tolerances()) == []


def test_where_neither_judged_any_image_there_is_no_agreement():
    found = comparison((FAILED, FAILED))

    assert found.objections(Tolerances()) == ["0.00% of the labels agree, below 95.00%"]
    assert list(found.lines())


@pytest.mark.parametrize(("seconds", "refused"), [(0.062, False), (0.063, True)])
def test_a_quarter_slower_is_too_slow(seconds, refused):
    found = comparison(*[(judged(0.1), judged(0.1, seconds))] * 20)

    assert bool(found.objections(Tolerances())) == refused
    assert found.slowdown == pytest.approx(seconds / 0.05 - 1)


def test_frames_of_videos_are_asked_about_as_images(tmp_path, capsys):
    write_videos(tmp_path, 1)
    (tmp_path / "text.mp4").write_text("no video")
    video = str(tmp_path / "real" / "clip_00.mp4")
    images = [Image(path, None, "") for path in ("a.png", video, str(tmp_path / "text.mp4"))]

    files = find_files(images, tmp_path / "frames")

    cut = cut_by_opencv(tmp_path / "real" / "clip_00.mp4", 8)
    assert list(files) == ["a.png", *(name_of(video, number) for number, _ in cut)]
    assert files["a.png"] == "a.png"
    for number, picture in cut:
        assert np.array_equal(cv2.imread(files[name_of(video, number)]), picture)
    assert f"left out: {tmp_path / 'text.mp4'}: it is no video" in capsys.readouterr().err
