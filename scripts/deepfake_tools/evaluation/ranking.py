"""AUC, PR-AUC, error rates, calibration and bootstrap intervals of labels and scores.

Needs the extra `evaluate`.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score
from sklearn.metrics import roc_curve as roc_points

from deepfake_tools.evaluation.figures import CONFIDENCE, RESAMPLES, Bin, Interval, Point

Labels = npt.NDArray[np.int8]
"""0 for real, 1 for fake, (images,); both are there."""

Scores = npt.NDArray[np.float64]
"""What images are ranked by, (images,): margins, or any other that rises with them."""

Counts = npt.NDArray[np.int64]
"""Images at each score that occurs, in rising order, (levels,)."""

CURVE_POINTS = 400
CALIBRATION_BINS = 15
SEED = 2017


def roc_auc(labels: Labels, scores: Scores) -> float:
    """Area under the ROC curve: the chance that a fake image scores above a real one."""
    return float(roc_auc_score(labels, scores))


def pr_auc(labels: Labels, scores: Scores) -> float:
    """Average precision, the step-wise area under the precision-recall curve.

    It is what the research script calls PR-AUC. The trapezoidal area is another number, and too
    kind (Davis and Goadrich 2006, "The relationship between precision-recall and ROC curves").
    """
    return float(average_precision_score(labels, scores))


def equal_error_rate(labels: Labels, scores: Scores) -> float:
    """Where the ROC curve, its points joined by straight lines, has FPR = 1 - TPR."""
    fpr, tpr, _ = roc_points(labels, scores, drop_intermediate=False)
    surplus = 1 - tpr - fpr  # falls from 1 at the curve's beginning to -1 at its end
    after = int(np.argmax(surplus <= 0))
    before = after - 1
    share = surplus[before] / (surplus[before] - surplus[after])
    return float(fpr[before] + share * (fpr[after] - fpr[before]))


def nearest_error_rate(labels: Labels, scores: Scores) -> float:
    """FPR of the point of the ROC curve at which FPR and 1 - TPR are the nearest to each other.

    It is DeepfakeBench's EER (https://github.com/SCLBD/DeepfakeBench, training/metrics/utils.py),
    which takes the curve without its intermediate points, and of equally near points the first.
    Of few images it may be far from `equal_error_rate`.
    """
    fpr, tpr, _ = roc_points(labels, scores)
    return float(fpr[np.argmin(np.abs(1 - tpr - fpr))])


def tpr_at_fpr(labels: Labels, scores: Scores, target: float) -> float:
    """The largest TPR of a threshold whose FPR is at most `target`, with no interpolation.

    A target below one in the number of real images is one that allows no false alarm at all.
    """
    fpr, tpr, _ = roc_points(labels, scores, drop_intermediate=False)
    return float(tpr[fpr <= target].max())


def reliability(labels: Labels, probabilities: Scores) -> tuple[Bin, ...]:
    """Sorts images into 15 equal bins of their probability of FAKE; empty bins are left out.

    The bins are ((m - 1) / 15, m / 15] as in Guo et al. 2017, "On calibration of modern neural
    networks", section 2, and 0 is in the first. They are of the probability of FAKE, not of the
    label's confidence, so that they do not depend on the card's threshold.
    """
    edges = np.arange(CALIBRATION_BINS + 1) / CALIBRATION_BINS
    places = np.clip(
        np.searchsorted(edges, probabilities, side="left") - 1, 0, CALIBRATION_BINS - 1
    )
    images = np.bincount(places, minlength=CALIBRATION_BINS)
    fakes = np.bincount(places, weights=labels, minlength=CALIBRATION_BINS)
    sums = np.bincount(places, weights=probabilities, minlength=CALIBRATION_BINS)
    return tuple(
        Bin(
            lower=float(edges[i]),
            upper=float(edges[i + 1]),
            images=int(images[i]),
            mean_probability=float(sums[i] / images[i]),
            fake_share=float(fakes[i] / images[i]),
        )
        for i in np.flatnonzero(images)
    )


def calibration_error(bins: tuple[Bin, ...]) -> float:
    """Expected calibration error: the bins' mean |share of fakes - mean probability|, by images.

    Guo et al. 2017, equation 3, with the probability of FAKE for the confidence.
    """
    images = sum(b.images for b in bins)
    return sum(b.images * abs(b.fake_share - b.mean_probability) for b in bins) / images


def roc_curve(labels: Labels, scores: Scores) -> tuple[Point, ...]:
    """The ROC curve from (0, 0) to (1, 1), (FPR, TPR), thinned for a drawing."""
    fpr, tpr, _ = roc_points(labels, scores)
    return _thinned(fpr, tpr)


def pr_curve(labels: Labels, scores: Scores) -> tuple[Point, ...]:
    """The precision-recall curve by growing recall, (recall, precision), thinned for a drawing."""
    precision, recall, _ = precision_recall_curve(labels, scores, drop_intermediate=True)
    return _thinned(recall[::-1], precision[::-1])


def _thinned(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> tuple[Point, ...]:
    """Keeps points at equal distances along the curve, so that steep parts keep theirs."""
    if len(x) > CURVE_POINTS:
        length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
        kept = np.searchsorted(length, np.linspace(0, length[-1], CURVE_POINTS))
        kept = np.unique(np.concatenate([[0], kept, [len(x) - 1]]))
        x, y = x[kept], y[kept]
    return tuple(zip(x.tolist(), y.tolist(), strict=True))


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
