"""What a threshold holds, against simulated calibrations and the formulas of the papers."""

import math
from fractions import Fraction

import numpy as np
import pytest
from clip_deepfake.decision import fewest_images, tail_rank
from deepfake_tools.deciding.conformal import (
    TooFewImagesError,
    guarantee,
    lowest_fakes,
    share_interval,
    threshold,
)
from scipy import stats

DRAWS = 2000
IMAGES = 399
ALPHAS = (0.1, 0.05, 0.01)
DISTRIBUTIONS = {
    "normal": stats.norm(),
    "heavy tails": stats.t(2),
    "tied": stats.poisson(400),
}


def realised(name: str, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Of each draw's threshold, the exact chance of a further real image above it, and at it."""
    distribution = DISTRIBUTIONS[name]
    draws = np.sort(distribution.rvs((DRAWS, IMAGES), random_state=1).astype(float), axis=1)
    levels = np.array([threshold(row, alpha, "--false-alarms") for row in draws])
    at = distribution.pmf(levels) if name == "tied" else np.zeros(DRAWS)
    return distribution.sf(levels), at


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_false_alarms_are_held_on_average(name: str, alpha: float) -> None:
    rates, at = realised(name, alpha)
    chance = 4 * rates.std() / math.sqrt(DRAWS)
    assert rates.mean() <= alpha + chance
    # Of tied scores those at the threshold are called real, or else too many would be called fake.
    assert (rates + at).mean() >= alpha - 1 / (IMAGES + 1) - chance


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("name", ["normal", "heavy tails"])
def test_the_rate_of_one_calibration_has_the_beta_distribution(name: str, alpha: float) -> None:
    rates, _ = realised(name, alpha)
    k = math.ceil((IMAGES + 1) * (1 - Fraction(str(alpha))))
    expected = stats.beta(IMAGES + 1 - k, k)
    for quantile in (0.025, 0.25, 0.5, 0.75, 0.975):
        below = (rates <= expected.ppf(quantile)).mean()
        assert abs(below - quantile) < 4 * math.sqrt(quantile * (1 - quantile) / DRAWS)
    held = guarantee(IMAGES, alpha)
    assert held.mean == pytest.approx(expected.mean())
    assert held.interval == pytest.approx((expected.ppf(0.025), expected.ppf(0.975)))


@pytest.mark.parametrize("images", [1, 9, 10, 98, 99, 100, 1000, 12_345])
@pytest.mark.parametrize("alpha", [0.5, 0.1, 0.01, 0.07, 1 / 3])
def test_the_threshold_is_the_order_statistic(images: int, alpha: float) -> None:
    k = math.ceil((images + 1) * (1 - Fraction(str(alpha))))
    margins = [float(number) for number in range(1, images + 1)]
    if k > images:
        assert images < fewest_images(alpha)
        with pytest.raises(TooFewImagesError, match=f"{fewest_images(alpha):,}"):
            threshold(margins, alpha, "--false-alarms")
        return
    assert images >= fewest_images(alpha)
    assert threshold(margins, alpha, "--false-alarms") == k
    assert tail_rank(alpha, images) == images + 1 - k


def test_the_number_that_is_needed_is_just_enough() -> None:
    for alpha in (0.1, 0.05, 0.01, 0.001):
        needed = fewest_images(alpha)
        assert needed == round(1 / alpha) - 1
        assert tail_rank(alpha, needed) == 1
        assert tail_rank(alpha, needed - 1) == 0


def test_at_most_the_wanted_share_of_fakes_is_called_real() -> None:
    rng = np.random.default_rng(3)
    draws = np.sort(rng.normal(1, 2, (DRAWS, 199)), axis=1)
    levels = [lowest_fakes(row, 0.05, "--unsure") for row in draws]
    assert stats.norm(1, 2).cdf(levels).mean() == pytest.approx(0.05, abs=0.002)


@pytest.mark.parametrize(("count", "images"), [(0, 10), (3, 10), (10, 10), (7, 400)])
def test_a_share_has_the_interval_of_the_binomial_test(count: int, images: int) -> None:
    expected = stats.binomtest(count, images).proportion_ci(0.95, "exact")
    assert share_interval(count, images) == pytest.approx((expected.low, expected.high))
