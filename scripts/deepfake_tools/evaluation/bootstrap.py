"""True labels and scores in, bootstrap intervals of AUC and PR-AUC out."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deepfake_tools.evaluation.figures import CONFIDENCE, RESAMPLES, Interval
from deepfake_tools.evaluation.scores import Labels, Scores

SEED = 2017

Counts = npt.NDArray[np.int64]
"""Images at each score that occurs, in rising order, (levels,)."""


class Intervals(NamedTuple):
    """Percentile intervals of both areas."""

    auc: Interval
    pr_auc: Interval


def bootstrap(labels: Labels, scores: Scores, resamples: int = RESAMPLES) -> Intervals:
    """Draws images with replacement and returns what the middle 95 % of the areas span.

    Stratified: each resample has as many real and as many fake images as the sample. A resample is
    held as counts at the scores that occur, so that each needs two passes and no sorting. The
    images count as independent, which the frames of one video are not.

    Args:
        labels: Of the images.
        scores: Of the images.
        resamples: How many times; the seed is fixed.
    """
    levels, places = np.unique(scores, return_inverse=True)
    classes = [places[labels == 0], places[labels == 1]]
    generator = np.random.default_rng(SEED)
    areas = np.empty((resamples, 2))
    for i in range(resamples):
        real, fake = (
            np.bincount(
                of_class[generator.integers(len(of_class), size=len(of_class), dtype=np.int32)],
                minlength=len(levels),
            )
            for of_class in classes
        )
        areas[i] = area_under_roc(real, fake), average_precision(real, fake)
    tail = (1 - CONFIDENCE) / 2
    (auc_low, pr_low), (auc_high, pr_high) = np.quantile(areas, [tail, 1 - tail], axis=0).tolist()
    return Intervals((auc_low, auc_high), (pr_low, pr_high))


def area_under_roc(real: Counts, fake: Counts) -> float:
    """Share of (real, fake) pairs in which the fake scores higher; equal scores count half."""
    below = np.cumsum(real) - real
    return float(fake @ (2 * below + real) / (2 * real.sum() * fake.sum()))


def average_precision(real: Counts, fake: Counts) -> float:
    """Mean over the fake images of the precision at their own score as the threshold."""
    true_alarms = fake.sum() - np.cumsum(fake) + fake
    false_alarms = real.sum() - np.cumsum(real) + real
    precision = true_alarms / np.maximum(true_alarms + false_alarms, 1)
    # Not a dot product: at this length BLAS spends ten times the work on waking its threads.
    return float((fake * precision).sum() / fake.sum())
