"""True labels and scores in, figures and thresholds out."""

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int64]
"""0 for real, 1 for fake, (images,)."""

Scores = npt.NDArray[np.float64]
"""Probability of FAKE in [0, 1], (images,)."""


def accuracy(labels: Labels, scores: Scores, threshold: float) -> float:
    """Share of right answers when scores above the threshold are called fake."""
    return float(np.mean((scores > threshold) == (labels == 1)))


def balanced_threshold(labels: Labels, scores: Scores) -> float:
    """The threshold of the best balanced accuracy, the mean of both classes' shares of right ones.

    It lies half way between two scores, so that it does not depend on the last digit of one; of
    equally good ones it is the nearest to a half.
    """
    levels = np.unique(scores)
    middles = (levels[1:] + levels[:-1]) / 2
    candidates = np.concatenate([[0.0], middles, [1.0]])
    real, fake = np.sort(scores[labels == 0]), np.sort(scores[labels == 1])
    right_real = np.searchsorted(real, candidates, side="right") / len(real)
    right_fake = 1 - np.searchsorted(fake, candidates, side="right") / len(fake)
    quality = right_real + right_fake
    best = candidates[np.isclose(quality, quality.max(), rtol=0, atol=1e-12)]
    return float(best[np.argmin(np.abs(best - 0.5))])


def threshold_at_fpr(labels: Labels, scores: Scores, target: float) -> float:
    """The lowest threshold that calls at most this share of the real images fake.

    Args:
        labels: with at least one real image.
        scores: of the images.
        target: in [0, 1).
    """
    real = np.sort(scores[labels == 0])[::-1]
    # Scores above the threshold are called fake: the score itself is not. The addition keeps a
    # product such as 0.07 * 100 from falling just short of the whole number that it stands for.
    return float(real[int(target * len(real) + 1e-9)])
