"""Paired tests against direct formulas, published figures, SciPy, and what chance does."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from deepfake_tools.evaluation.paired_tests import bootstrap_differences, delong, mcnemar
from scipy.stats import binomtest, chi2, norm
from sklearn.metrics import roc_auc_score

Array = npt.NDArray[np.float64]

OVARIAN = """
3.0 5.8 10 0   3.2 6.3  5 1   3.9 6.8  3 1   2.8 4.8  6 0   3.2 5.8  3 1   0.9 4.0  5 0
2.5 5.7  8 0   1.6 5.6  5 1   3.8 5.7  5 1   3.7 6.7  6 1   3.2 5.4  4 1   3.8 6.6  6 1
4.1 6.6  5 1   3.6 5.7  5 1   4.3 7.0  4 1   3.6 6.7  4 0   2.3 4.4  6 1   4.2 7.6  4 0
4.0 6.6  6 0   3.5 5.8  6 1   3.8 6.8  7 1   3.0 4.7  8 0   4.5 7.4  5 1   3.7 7.4  5 1
3.1 6.6  6 1   4.1 8.2  6 1   4.3 7.0  5 1   4.3 6.5  4 1   3.2 5.1  5 1   2.6 4.7  6 1
3.3 6.8  6 0   1.7 4.0  7 0   3.7 6.1  5 1   3.3 6.3  7 1   4.2 7.7  6 1   3.5 6.2  5 1
2.9 5.7  9 0   2.1 4.8  7 1   2.8 6.2  8 0   4.0 7.0  7 1   3.3 5.7  6 1   3.7 6.9  5 1
3.6 6.6  5 1
"""
"""Albumin, total protein, K-G score (less is better) and outcome: the patients of DeLong et al.
1988, as the documentation of SAS/STAT's PROC LOGISTIC has them ("Comparing Receiver Operating
Characteristic Curves")."""


def direct(labels: npt.NDArray[np.int8], scores: list[Array]) -> tuple[list[float], float]:
    """DeLong's areas and the variance of their difference by all pairs of images."""
    placed = []
    for one in scores:
        fake, real = one[labels == 1][:, None], one[labels == 0][None, :]
        placed.append((fake > real) + 0.5 * (fake == real))
    fakes, reals = placed[0].shape
    by_fake = np.cov([pairs.mean(axis=1) for pairs in placed])
    by_real = np.cov([pairs.mean(axis=0) for pairs in placed])
    covariance = by_fake / fakes + by_real / reals
    difference = np.array([-1, 1])
    return [pairs.mean() for pairs in placed], float(difference @ covariance @ difference)


def drawn(seed: int, images: int = 80, ties: int | None = None) -> tuple[Array, Array, Array]:
    """Labels, and two correlated detectors' scores of different worth."""
    generator = np.random.default_rng(seed)
    labels = np.arange(images) % 3 == 0
    shared = generator.normal(size=images)
    first = shared + generator.normal(size=images) + 0.8 * labels
    second = shared + generator.normal(size=images) + 1.2 * labels
    if ties:
        first, second = np.round(first * ties) / ties, np.round(second * ties) / ties
    return labels.astype(np.int8), first, second


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("ties", [None, 1, 2])
def test_delong_is_the_formula_over_all_pairs(seed: int, ties: int | None):
    labels, first, second = drawn(seed, ties=ties)
    found = delong(labels, first, second)
    areas, variance = direct(labels, [first, second])
    assert [found.first, found.second] == pytest.approx(areas, abs=1e-12)
    assert found.variance == pytest.approx(variance, rel=1e-9)
    assert found.first == pytest.approx(roc_auc_score(labels, first), abs=1e-12)
    statistic = (areas[1] - areas[0]) / math.sqrt(variance)
    assert found.p == pytest.approx(2 * norm.sf(abs(statistic)), rel=1e-9)


def test_delong_s_own_patients_have_the_published_figures():
    albumin, protein, score, outcome = np.array(OVARIAN.split(), float).reshape(-1, 4).T
    labels = outcome.astype(np.int8)
    found = delong(labels, 10 - score, albumin)
    assert round(found.first, 4) == 0.7258
    assert round(found.second, 4) == 0.7366
    assert round(found.second - found.first, 4) == 0.0108
    assert round(math.sqrt(found.variance or 0), 4) == 0.0953
    assert round(found.p or 0, 4) == 0.9102
    assert round(delong(labels, 10 - score, protein).second, 4) == 0.6478


def test_one_detector_against_itself_differs_by_nothing():
    labels, first, _ = drawn(0)
    found = delong(labels, first, first)
    assert (found.variance, found.p) == (0, 1)


def test_where_no_variance_is_to_be_seen_there_is_no_p():
    labels = np.array([0, 0, 1, 1], np.int8)
    right = np.array([0.0, 1.0, 2.0, 3.0])
    found = delong(labels, right, -right)
    assert (found.first, found.second, found.variance, found.p) == (1, 0, 0, None)
    assert delong(np.array([0, 0, 1], np.int8), right[:3], right[:3]).p is None


def answers(both: int, first: int, second: int, neither: int) -> tuple[Array, Array]:
    pairs = [(1, 1)] * both + [(1, 0)] * first + [(0, 1)] * second + [(0, 0)] * neither
    one, other = np.array(pairs, bool).T
    return one, other


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (3, 3), (2, 9), (24, 0), (12, 12)])
def test_mcnemar_of_few_is_the_binomial_test(first: int, second: int):
    found = mcnemar(*answers(20, first, second, 7))
    expected = binomtest(first, first + second).pvalue if first + second else 1.0
    assert found.p == pytest.approx(expected, rel=1e-12)
    assert (found.first_alone, found.second_alone, found.exact) == (first, second, True)


@pytest.mark.parametrize(("first", "second"), [(25, 0), (13, 12), (30, 30), (121, 59), (900, 1100)])
def test_mcnemar_of_many_is_the_corrected_chi_square(first: int, second: int):
    found = mcnemar(*answers(5, first, second, 5))
    statistic = max(abs(first - second) - 1, 0) ** 2 / (first + second)
    assert found.p == pytest.approx(chi2.sf(statistic, 1), rel=1e-9)
    assert not found.exact
    # The correction is for what the binomial distribution says.
    assert found.p == pytest.approx(binomtest(first, first + second).pvalue, abs=0.02)


def test_a_bootstrap_interval_is_that_of_drawing_by_hand():
    labels, first, second = drawn(3, images=60, ties=2)
    right = tuple((one > 0.5) == labels for one in (first, second))
    found = bootstrap_differences(labels, (first, second), right)
    generator = np.random.default_rng(99)
    changes = []
    for _ in range(1000):
        rows = np.concatenate(
            [generator.choice(np.flatnonzero(labels == k), (labels == k).sum()) for k in (0, 1)]
        )
        gain = right[1][rows].mean() - right[0][rows].mean()
        areas = [roc_auc_score(labels[rows], one[rows]) for one in (first, second)]
        changes.append((areas[1] - areas[0], gain))
    by_hand = np.quantile(changes, [0.025, 0.975], axis=0)
    # Other draws: within three standard errors of a 2.5 % quantile of 1000.
    assert found.auc == pytest.approx(by_hand[:, 0], abs=0.02)
    assert found.accuracy == pytest.approx(by_hand[:, 1], abs=0.03)


def test_a_bootstrap_covers_the_true_difference_about_as_often_as_it_says():
    truth = norm.cdf(1.2 / 2) - norm.cdf(0.8 / 2)  # of scores whose noise has variance 2
    covered = 0
    for seed in range(200):
        labels, first, second = drawn(seed, images=120)
        right = tuple((one > 0.5) == labels for one in (first, second))
        low, high = bootstrap_differences(labels, (first, second), right, resamples=200).auc
        covered += low <= truth <= high
    # 95 % of 200 is 190, with a standard deviation of 3.
    assert 180 <= covered <= 199


def test_both_tests_call_equal_detectors_different_about_as_often_as_they_say():
    generator = np.random.default_rng(1)
    labels = (np.arange(200) % 2).astype(np.int8)
    small = {"delong": 0, "mcnemar": 0}
    for _ in range(400):
        shared = generator.normal(size=200) + labels
        first, second = (shared + generator.normal(size=200) for _ in range(2))
        small["delong"] += (delong(labels, first, second).p or 0) < 0.05
        small["mcnemar"] += mcnemar((first > 0.5) == labels, (second > 0.5) == labels).p < 0.05
    # 5 % of 400 is 20, with a standard deviation of 4.4; McNemar's corrected test is cautious.
    assert 8 <= small["delong"] <= 33
    assert 2 <= small["mcnemar"] <= 33


def test_one_class_has_an_accuracy_and_no_area():
    labels = np.ones(6, np.int8)
    scores = np.arange(6.0)
    right = np.array([1, 1, 1, 0, 0, 0], bool), np.array([1, 1, 1, 1, 1, 0], bool)
    found = bootstrap_differences(labels, (scores, scores), right)
    assert found.auc is None
    assert 0 <= found.accuracy[0] <= 1 / 3 <= found.accuracy[1]
