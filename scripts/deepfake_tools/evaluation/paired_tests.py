"""Two detectors on the same images: DeLong's test, McNemar's, and a bootstrap of the differences.

Needs the extra `evaluate`.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from deepfake_tools.evaluation.figures import CONFIDENCE, RESAMPLES, Interval
from deepfake_tools.evaluation.ranking import SEED, Labels, Scores, area_under_roc

Right = npt.NDArray[np.bool_]
"""Whether a detector's prediction is the label, (images,)."""

FEW_DISCORDANT = 25
"""Of fewer images that one detector alone gets right the binomial distribution is summed."""


@dataclass(frozen=True)
class DeLong:
    """Two areas under the ROC curve, and what their difference may be by chance.

    Attributes:
        first: The one detector's area.
        second: The other's.
        variance: Of the difference; None where a class has one image alone.
    """

    first: float
    second: float
    variance: float | None

    @property
    def p(self) -> float | None:
        """Two-sided, that the areas are equal; None where no variance is to be seen."""
        change = abs(self.second - self.first)
        if self.variance is None:
            return None
        if self.variance <= 0:
            # Both rank all pairs alike, or each without an exception: no chance is at work.
            return None if change else 1.0
        return math.erfc(change / math.sqrt(2 * self.variance))


def delong(labels: Labels, first: Scores, second: Scores) -> DeLong:
    """Compares two areas on the same images.

    The variance is that of DeLong, DeLong and Clarke-Pearson 1988, "Comparing the areas under two
    or more correlated receiver operating characteristic curves", from midranks as in Sun and Xu
    2014, "Fast implementation of DeLong's algorithm": sorting, rather than all pairs of images.

    Args:
        labels: Of the images.
        first: The one detector's scores of them.
        second: The other's.
    """
    fakes, reals = int((labels == 1).sum()), int((labels == 0).sum())
    areas, of_fakes, of_reals = [], [], []
    for scores in (first, second):
        fake, real = scores[labels == 1], scores[labels == 0]
        together = rankdata(np.concatenate([fake, real]))
        # How many of the other class each image is on the right side of, as shares.
        over_reals = (together[:fakes] - rankdata(fake)) / reals
        under_fakes = 1 - (together[fakes:] - rankdata(real)) / fakes
        areas.append(float(over_reals.mean()))
        of_fakes.append(over_reals)
        of_reals.append(under_fakes)
    variance = None
    if min(fakes, reals) > 1:
        variance = float(
            np.var(of_fakes[1] - of_fakes[0], ddof=1) / fakes
            + np.var(of_reals[1] - of_reals[0], ddof=1) / reals
        )
    return DeLong(areas[0], areas[1], variance)


class McNemar(NamedTuple):
    """How often one detector alone is right, and what that may be by chance.

    Attributes:
        first_alone: Images that only the first gets right.
        second_alone: Images that only the second gets right.
        p: Two-sided, that both are right equally often.
        exact: Whether the binomial distribution was summed, rather than approximated.
    """

    first_alone: int
    second_alone: int
    p: float
    exact: bool


def mcnemar(first: Right, second: Right) -> McNemar:
    """Compares how often two detectors are right on the same images.

    Of few images that one alone gets right the test is the binomial one, of others the chi-square
    one with Edwards' correction (1948, "Note on the correction for continuity in testing the
    significance of the difference between correlated proportions").
    """
    one, other = int((first & ~second).sum()), int((second & ~first).sum())
    discordant = one + other
    if discordant < FEW_DISCORDANT:
        tail = sum(math.comb(discordant, k) for k in range(min(one, other) + 1))
        return McNemar(one, other, min(1.0, 2 * tail / 2**discordant), True)
    statistic = max(abs(one - other) - 1, 0) ** 2 / discordant
    return McNemar(one, other, math.erfc(math.sqrt(statistic / 2)), False)


class Differences(NamedTuple):
    """Percentile intervals of second less first; of the areas None where a class is missing."""

    auc: Interval | None
    accuracy: Interval


def bootstrap_differences(
    labels: Labels,
    scores: tuple[Scores, Scores],
    right: tuple[Right, Right],
    resamples: int = RESAMPLES,
) -> Differences:
    """Draws images with replacement and returns what the middle 95 % of the differences span.

    An image is drawn for both detectors at a time. Stratified, as the intervals of one run are.

    Args:
        labels: Of the images; one class may be missing.
        scores: Each detector's.
        right: Whether each is right.
        resamples: How many times; the seed is fixed.
    """
    classes = [rows for label in (0, 1) if len(rows := np.flatnonzero(labels == label))]
    gains = right[1].astype(np.int8) - right[0].astype(np.int8)
    ranked = [np.unique(of_one, return_inverse=True) for of_one in scores]
    generator = np.random.default_rng(SEED)
    found = np.empty((resamples, 2))
    for i in range(resamples):
        drawn = [rows[generator.integers(len(rows), size=len(rows))] for rows in classes]
        gain = sum(int(gains[rows].sum(dtype=np.int64)) for rows in drawn) / len(labels)
        change = math.nan
        if len(drawn) == 2:
            first, second = (
                area_under_roc(
                    *(np.bincount(places[rows], minlength=len(levels)) for rows in drawn)
                )
                for levels, places in ranked
            )
            change = second - first
        found[i] = change, gain
    tail = (1 - CONFIDENCE) / 2
    (auc_low, gain_low), (auc_high, gain_high) = np.quantile(found, [tail, 1 - tail], axis=0)
    auc = None if len(classes) < 2 else (float(auc_low), float(auc_high))
    return Differences(auc, (float(gain_low), float(gain_high)))
