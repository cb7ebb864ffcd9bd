import numpy as np
import pytest
from deepfake_tools.client.records import Record
from deepfake_tools.operations.comparison import Comparison, Tolerances, VerdictPair, quantile


def judged(probability: float, seconds: float = 0.05) -> Record:
    prediction = int(probability > 0.5)
    return Record(0, seconds, 0, prediction=prediction, fake_probability=probability)


FAILED = Record(0, 0.01, 0, error="internal_error", message="?", exit_code=5)


def comparison(*pairs: tuple[Record, Record]) -> Comparison:
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

    assert quantile(values, share) == pytest.approx(np.quantile(values, share))


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
