"""Features and labels in, a linear head out: logistic regression, with the strength that fits."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from clip_deepfake.engines import Features
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from threadpoolctl import threadpool_limits

from deepfake_tools.training.splits import Labels, Split
from deepfake_tools.training.thresholds import Scores

STRENGTHS = (0.0001, 0.001, 0.01, 0.1, 1.0, 10.0)
"""scikit-learn's C: the smaller, the nearer the weights stay to zero."""

SMALLEST_SPREAD = 1e-3
"""Of a feature's component, relative to its size; what varies less is float32's rounding."""

SMALL_TABLE = 1 << 22
"""Numbers in a table of features below which a second thread costs more than it brings."""

Weights = npt.NDArray[np.float64]

Margins = npt.NDArray[np.float64]
"""Logits of FAKE, (images,)."""


@dataclass(frozen=True)
class FittedHead:
    """One logit, read through a sigmoid.

    Attributes:
        weight: float64 (feature size,), on the feature as it is.
        bias: added.
    """

    weight: Weights
    bias: float

    def margins(self, features: Features) -> Margins:
        """Returns the logit of each of (images, feature size): what they are ranked by."""
        return np.asarray(features.astype(np.float64) @ self.weight + self.bias)

    def probabilities(self, features: Features) -> Scores:
        """Returns the probability of FAKE for each of (images, feature size)."""
        return sigmoid(self.margins(features))


def sigmoid(margins: Margins) -> Scores:
    """Turns logits of FAKE into its probabilities, both (images,)."""
    grown = np.exp(-np.abs(margins))
    return np.asarray(np.where(margins < 0, grown, 1) / (1 + grown))


@dataclass(frozen=True)
class CrossValidation:
    """The strength that did best, and how it did.

    Attributes:
        strength: scikit-learn's C.
        mean_auc: area under the ROC curve, its mean over the folds.
        auc_std: its standard deviation over the folds.
        rows: the images of all folds, sorted.
        scores: probability of FAKE for each of ``rows``, by the head that did not see it.
    """

    strength: float
    mean_auc: float
    auc_std: float
    rows: npt.NDArray[np.int64]
    scores: Scores


def fit(features: Features, labels: Labels, strength: float) -> FittedHead:
    """Fits scikit-learn's logistic regression to standardised features.

    The standardisation is folded into the weights: ``w * (x - mean) / spread`` is linear in ``x``.

    Args:
        features: float32 (images, feature size).
        labels: of the images, of both classes.
        strength: scikit-learn's C.
    """
    values = features.astype(np.float64)
    mean = values.mean(axis=0)
    spread = np.maximum(values.std(axis=0), SMALLEST_SPREAD * np.abs(values).max(axis=0))
    spread[spread == 0] = 1
    # At scikit-learn's own tolerance the third decimal of a probability would be the solver's.
    model = LogisticRegression(C=strength, tol=1e-6, max_iter=2000)
    threads = 1 if values.size < SMALL_TABLE else None
    with warnings.catch_warnings(), threadpool_limits(threads):
        # What 2000 steps leave undone is far below what the choice of the strength decides.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit((values - mean) / spread, labels)
    weight = model.coef_[0] / spread
    return FittedHead(weight, float(model.intercept_[0] - weight @ mean))


def cross_validate(
    features: Features, labels: Labels, folds: Sequence[Split], report: Callable[[int], None]
) -> CrossValidation:
    """Chooses the strength with the least logistic loss on images that a head did not see.

    The loss, not the AUC: a served probability is to be right, not only in the right order.

    Args:
        features: float32 (images, feature size).
        labels: of the images.
        folds: each with both classes on both sides.
        report: told, after each fit, how many of ``len(STRENGTHS) * len(folds)`` are done.
    """
    rows = np.sort(np.concatenate([fold.test for fold in folds]))
    best: CrossValidation | None = None
    least = np.inf
    done = 0
    for strength in STRENGTHS:
        scores = np.full(len(labels), np.nan)
        aucs = []
        for fold in folds:
            head = fit(features[fold.train], labels[fold.train], strength)
            scores[fold.test] = head.probabilities(features[fold.test])
            margins = head.margins(features[fold.test])
            aucs.append(float(roc_auc_score(labels[fold.test], margins)))
            done += 1
            report(done)
        loss = log_loss(labels[rows], scores[rows])
        if best is None or loss < least:
            least = loss
            best = CrossValidation(
                strength, float(np.mean(aucs)), float(np.std(aucs)), rows, scores[rows]
            )
    assert best is not None  # there is at least one strength
    return best
