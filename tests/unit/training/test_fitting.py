import numpy as np
import pytest
from deepfake_tools.training.fitting import STRENGTHS, cross_validate, fit
from deepfake_tools.training.splits import plan_splits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler


def data(count: int, apart: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features of very different sizes, as CLIP's are, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    values = rng.normal(size=(count, 40))
    values[:, :5] += apart * labels[:, None]
    sizes, shifts = np.geomspace(0.02, 20, 40), rng.normal(size=40)
    return ((values + 3 * shifts) * sizes).astype(np.float32), labels


def reference(strength: float) -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, tol=1e-8, max_iter=5000))


@pytest.mark.parametrize("strength", STRENGTHS)
def test_the_head_answers_what_scikit_learn_answers(strength: float) -> None:
    features, labels = data(400, apart=0.5)
    unseen, _ = data(200, apart=0.5, seed=1)
    head = fit(features, labels, strength)
    expected = reference(strength).fit(features.astype(np.float64), labels)
    found = head.probabilities(unseen)
    assert np.abs(found - expected.predict_proba(unseen.astype(np.float64))[:, 1]).max() < 1e-4
    assert np.ptp(found) > 0.01
    # As it is served: everything in float32.
    logits = unseen @ head.weight.astype(np.float32) + np.float32(head.bias)
    assert np.abs(1 / (1 + np.exp(-logits)) - found).max() < 1e-4


def test_components_that_do_not_vary_have_no_part_in_it() -> None:
    features, labels = data(400, apart=0.5)
    rounding = 100 + np.random.default_rng(2).normal(size=400) * 1e-5
    still = np.column_stack([features, np.full(400, 7), np.zeros(400), rounding])
    plain, head = fit(features, labels, 1.0), fit(still.astype(np.float32), labels, 1.0)
    assert np.allclose(head.weight[:40], plain.weight, rtol=1e-2, atol=1e-4)
    assert np.abs(head.weight[40:] * [7, 0, 1e-5]).max() < 1e-3


def test_the_strength_is_that_of_the_least_loss_on_unseen_images() -> None:
    features, labels = data(150, apart=0.4)
    plan = plan_splits(labels, [str(n) for n in range(150)], seed=0)
    reports: list[int] = []
    found = cross_validate(features, labels, plan.folds, reports.append)
    assert reports == list(range(1, len(STRENGTHS) * len(plan.folds) + 1))

    losses, aucs = {}, {}
    for strength in STRENGTHS:
        scores = np.zeros(150)
        for fold in plan.folds:
            model = reference(strength).fit(features[fold.train], labels[fold.train])
            scores[fold.test] = model.predict_proba(features[fold.test])[:, 1]
        rows = plan.held_out.train
        losses[strength] = log_loss(labels[rows], scores[rows])
        aucs[strength] = [roc_auc_score(labels[f.test], scores[f.test]) for f in plan.folds]
    best = min(losses, key=losses.__getitem__)
    assert found.strength == best
    assert STRENGTHS[0] < best < STRENGTHS[-1]
    assert found.mean_auc == pytest.approx(np.mean(aucs[best]), abs=1e-3)
    assert found.auc_std == pytest.approx(np.std(aucs[best]), abs=1e-3)
    assert found.rows.tolist() == sorted(plan.held_out.train)
