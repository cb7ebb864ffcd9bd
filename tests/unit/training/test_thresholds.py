import numpy as np
import pytest
from deepfake_tools.training.thresholds import accuracy, balanced_threshold, threshold_at_fpr
from sklearn.metrics import accuracy_score, balanced_accuracy_score


def sample(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores that overlap; every other sample is full of ties."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([[0, 1], rng.integers(0, 2, rng.integers(1, 60))])
    scores = np.clip(rng.normal(0.4 + 0.2 * labels, 0.2), 0, 1)
    return labels, np.round(scores, 1) if seed % 2 else scores


@pytest.mark.parametrize("seed", range(20))
def test_no_threshold_has_a_better_balanced_accuracy(seed: int) -> None:
    labels, scores = sample(seed)
    every = np.unique([0, *scores, 1])
    best = max(balanced_accuracy_score(labels, scores > threshold) for threshold in every)
    found = balanced_threshold(labels, scores)
    assert 0 <= found <= 1
    assert balanced_accuracy_score(labels, scores > found) == pytest.approx(best)


def test_the_balanced_threshold_of_separable_scores_lies_between_them() -> None:
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.0, 0.1, 0.7, 1.0])
    assert balanced_threshold(labels, scores) == pytest.approx(0.4)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("target", [0.0, 0.01, 0.07, 0.25, 0.5, 0.99])
def test_the_threshold_keeps_to_the_rate_and_no_lower_score_does(seed: int, target: float) -> None:
    labels, scores = sample(seed)
    real = scores[labels == 0]
    found = threshold_at_fpr(labels, scores, target)
    assert np.mean(real > found) <= target
    lower = [score for score in real if score < found]
    assert all(np.mean(real > score) > target for score in lower)


def test_a_rate_that_is_a_whole_number_of_images_is_used_up() -> None:
    scores = np.arange(100) / 100
    assert threshold_at_fpr(np.zeros(100), scores, 0.07) == scores[92]


def test_accuracy_is_scikit_learns() -> None:
    labels, scores = sample(0)
    threshold = scores[3]  # a score equal to the threshold is called real
    assert accuracy(labels, scores, threshold) == accuracy_score(labels, scores > threshold)
