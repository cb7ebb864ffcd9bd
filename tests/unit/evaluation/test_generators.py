"""Figures by generator, against scikit-learn's curve and a bootstrap by hand."""

import numpy as np
import pytest
from deepfake_tools.evaluation.figures import Metrics
from deepfake_tools.evaluation.metrics import measure
from deepfake_tools.evaluation.outcomes import Outcome
from sklearn.metrics import roc_auc_score, roc_curve

GENERATORS = {"fake/gan": 40, "fake/diffusion": 90, "fake/faceswap": 20}
REALS = 200


def drawn(seed: int) -> tuple[list[Outcome], np.ndarray, dict[str, np.ndarray]]:
    """A run, the scores of its real images, and those of each generator's."""
    rng = np.random.default_rng(seed)
    real = np.round(rng.beta(2, 4, REALS), 2)
    fakes = {
        name: np.round(rng.beta(3 + number, 3, size), 2)
        for number, (name, size) in enumerate(GENERATORS.items())
    }
    rows = [("real", 0, score) for score in real]
    rows += [(name, 1, score) for name, scores in fakes.items() for score in scores]
    rows = [rows[i] for i in rng.permutation(len(rows))]
    outcomes = [
        Outcome(i, f"{folder}/{i}.png", label, folder, int(score > 0.5), float(score), 0.1)
        for i, (folder, label, score) in enumerate(rows)
    ]
    return outcomes, real, fakes


def figures(real: np.ndarray, fake: np.ndarray) -> list[float]:
    labels = np.repeat([0, 1], [len(real), len(fake)])
    scores = np.concatenate([real, fake])
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    return [roc_auc_score(labels, scores), *(tpr[fpr <= most].max() for most in (0.01, 0.001))]


@pytest.fixture(scope="module")
def measured() -> tuple[Metrics, np.ndarray, dict[str, np.ndarray]]:
    outcomes, real, fakes = drawn(5)
    return measure(outcomes), real, fakes


@pytest.mark.parametrize("seed", range(5))
def test_each_generator_has_the_figures_of_its_fakes_among_all_reals(seed: int):
    outcomes, real, fakes = drawn(seed)
    metrics = measure(outcomes)
    folders = {folder.folder: folder for folder in metrics.folders}
    expected = {name: figures(real, fake) for name, fake in fakes.items()}
    for name, values in expected.items():
        own = folders[name]
        assert [own.auc, own.tpr_at_1_fpr, own.tpr_at_01_fpr] == pytest.approx(values, abs=1e-12)
    macro = metrics.macro
    assert macro is not None
    assert macro.generators == 3
    assert [macro.auc, macro.tpr_at_1_fpr, macro.tpr_at_01_fpr] == pytest.approx(
        np.mean(list(expected.values()), axis=0), abs=1e-12
    )
    assert folders["real"].auc is folders["real"].auc_interval is None


def test_intervals_are_those_of_drawing_by_hand(
    measured: tuple[Metrics, np.ndarray, dict[str, np.ndarray]],
):
    metrics, real, fakes = measured
    rng = np.random.default_rng(77)
    drawn_figures = []
    for _ in range(600):
        reals = rng.choice(real, len(real))
        drawn_figures.append(
            [figures(reals, rng.choice(fake, len(fake))) for fake in fakes.values()]
        )
    low, high = np.quantile(drawn_figures, [0.025, 0.975], axis=0)
    folders = {folder.folder: folder for folder in metrics.folders}
    for place, name in enumerate(fakes):
        own = folders[name]
        assert own.auc_interval == pytest.approx((low[place, 0], high[place, 0]), abs=0.02)
        assert own.tpr_at_1_fpr_interval == pytest.approx((low[place, 1], high[place, 1]), abs=0.06)
    means = np.mean(drawn_figures, axis=1)
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    assert metrics.macro is not None
    assert metrics.macro.auc_interval == pytest.approx((low[0], high[0]), abs=0.02)


def test_the_mean_s_interval_is_narrower_than_the_worst_generator_s(
    measured: tuple[Metrics, np.ndarray, dict[str, np.ndarray]],
):
    metrics, _, _ = measured
    assert metrics.macro is not None
    low, high = metrics.macro.auc_interval
    assert low < metrics.macro.auc < high
    widths = [f.auc_interval[1] - f.auc_interval[0] for f in metrics.folders if f.auc_interval]
    assert len(widths) == 3
    assert high - low < max(widths)


def test_one_generator_has_an_interval_and_no_mean():
    rows = [("real", 0, 0.1), ("real", 0, 0.6), ("fake", 1, 0.5), ("fake", 1, 0.9)]
    metrics = measure(
        Outcome(i, f"{i}.png", label, folder, int(score > 0.5), score, 0.1)
        for i, (folder, label, score) in enumerate(rows)
    )
    assert metrics.macro is None
    fake = metrics.folders[1]
    assert (fake.auc, fake.auc_interval is not None) == (0.75, True)


def test_of_very_many_generators_the_mean_alone_has_an_interval():
    outcomes = [
        Outcome(i, f"{i}.png", i % 2, f"{'fake' if i % 2 else 'real'}/{i}", 1, (i % 7) / 7, 0.1)
        for i in range(600)
    ]
    metrics = measure(outcomes)
    assert all(folder.auc_interval is None for folder in metrics.folders)
    assert metrics.macro is not None
    assert metrics.macro.generators == 300
    assert metrics.macro.auc == pytest.approx(
        np.mean([folder.auc for folder in metrics.folders if folder.auc is not None])
    )


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.0])
def test_a_confusion_matrix_at_any_threshold_leaves_the_labels_alone(threshold: float):
    outcomes, real, fakes = drawn(1)
    metrics = measure([*outcomes, Outcome(999, "x.png", None, "", 1, 0.9, 0.1)], None, threshold)
    fake = np.concatenate(list(fakes.values()))
    confusion = metrics.confusion
    assert confusion is not None
    assert confusion.real_as_fake == (real > threshold).sum()
    assert confusion.real_as_real == (real <= threshold).sum()
    assert confusion.fake_as_fake == (fake > threshold).sum()
    assert confusion.fake_as_real == (fake <= threshold).sum()
    shares = dict(confusion.shares)
    assert shares["FPR"] == pytest.approx((real > threshold).mean())
    assert shares["TPR"] == pytest.approx((fake > threshold).mean())
    assert ("precision" in shares) == (threshold < 1)
    assert metrics.accuracy == measure(outcomes).accuracy
