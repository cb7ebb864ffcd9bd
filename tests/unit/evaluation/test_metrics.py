import itertools
import math
import os
import random
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deepfake_tools.evaluation.figures import Metrics
from deepfake_tools.evaluation.metrics import MISTAKES, measure
from deepfake_tools.evaluation.outcomes import Outcome
from deepfake_tools.evaluation.ranking import area_under_roc, average_precision
from deepfake_tools.extras import LIBRARIES, MissingExtraError, require_extra
from scipy.special import expit
from sklearn import metrics as sklearn_metrics


def judged(
    index: int,
    label: int | None,
    score: float,
    path: str | None = None,
    folder: str = "",
    seconds: float = 0.1,
    threshold: float = 0.5,
) -> Outcome:
    path = path or f"data/{folder}/{index}.png"
    return Outcome(index, path, label, folder, int(score > threshold), score, seconds)


def failed(index: int, error: str) -> Outcome:
    return Outcome(index, f"{index}.png", 1, "", None, None, 0.1, error, "for a reason")


def of(labels: Iterable[int | None], scores: Iterable[float], **more: Any) -> Metrics:
    pairs = zip(labels, scores, strict=True)
    return measure(judged(i, label, score, **more) for i, (label, score) in enumerate(pairs))


def random_set(seed: int) -> tuple[list[int], list[float]]:
    """Scores of two classes that overlap; in two sets of three many are equal."""
    chance = random.Random(seed)
    labels = [0, 1] + [chance.randint(0, 1) for _ in range(chance.randint(0, 60))]
    digits = (1, 2, 12)[seed % 3]
    return labels, [round(chance.betavariate(1 + label, 2 - label), digits) for label in labels]


SETS = [random_set(seed) for seed in range(30)]


@pytest.mark.parametrize(("labels", "scores"), SETS)
def test_areas_are_those_of_scikit_learn(labels: list[int], scores: list[float]):
    metrics = of(labels, scores)
    assert metrics.auc == pytest.approx(sklearn_metrics.roc_auc_score(labels, scores))
    assert metrics.pr_auc == pytest.approx(sklearn_metrics.average_precision_score(labels, scores))


@pytest.mark.parametrize(("labels", "scores"), SETS)
def test_accuracies_are_those_of_scikit_learn_at_the_answers_own_threshold(
    labels: list[int], scores: list[float]
):
    metrics = of(labels, scores, threshold=0.3)
    predictions = [score > 0.3 for score in scores]
    balanced = sklearn_metrics.balanced_accuracy_score(labels, predictions)
    assert metrics.accuracy == pytest.approx(sklearn_metrics.accuracy_score(labels, predictions))
    assert metrics.balanced_accuracy == pytest.approx(balanced)


def rates(labels: list[int], scores: list[float]) -> list[tuple[float, float]]:
    """(FPR, TPR) at every threshold, counted."""
    points = []
    for threshold in [math.inf, *sorted(set(scores), reverse=True)]:
        alarms = [label for label, score in zip(labels, scores, strict=True) if score >= threshold]
        points.append((alarms.count(0) / labels.count(0), alarms.count(1) / labels.count(1)))
    return points


@pytest.mark.parametrize(("labels", "scores"), SETS)
def test_tpr_at_fpr_is_the_best_of_all_thresholds(labels: list[int], scores: list[float]):
    metrics = of(labels, scores)
    points = rates(labels, scores)
    assert metrics.tpr_at_1_fpr == max(tpr for fpr, tpr in points if fpr <= 0.01)
    assert metrics.tpr_at_01_fpr == max(tpr for fpr, tpr in points if fpr <= 0.001)


def test_an_fpr_that_is_met_exactly_counts():
    real = [0.9] + [0.1] * 99
    assert of([0] * 100 + [1, 1], [*real, 0.95, 0.8]).tpr_at_1_fpr == 1
    assert of([0] * 100 + [1, 1], [*real, 0.95, 0.8]).tpr_at_01_fpr == 0.5


@pytest.mark.parametrize(("labels", "scores"), SETS)
def test_the_equal_error_rate_lies_on_the_roc_where_both_errors_are_equal(
    labels: list[int], scores: list[float]
):
    eer = of(labels, scores).eer
    assert eer is not None
    crossings = []
    for (fpr, tpr), (fpr_2, tpr_2) in itertools.pairwise(rates(labels, scores)):
        # The segment's point at share s has FPR + TPR = 1.
        start, end = fpr + tpr, fpr_2 + tpr_2
        if start <= 1 <= end and start != end:
            crossings.append(fpr + (1 - start) / (end - start) * (fpr_2 - fpr))
    assert eer == pytest.approx(crossings[0], abs=1e-12)


@pytest.mark.parametrize(("labels", "scores"), SETS)
def test_the_nearest_equal_error_rate_is_deepfakebenchs(labels: list[int], scores: list[float]):
    fpr, tpr, _ = sklearn_metrics.roc_curve(labels, scores, pos_label=1)
    assert of(labels, scores).eer_nearest == fpr[np.nanargmin(np.absolute((1 - tpr) - fpr))]


def test_the_two_equal_error_rates_of_few_images_are_apart():
    # The points of the ROC are (0, 1/3), (1/4, 1) and (1, 1); of the first two, joined by a line,
    # 8/11 of the way it has FPR = 1 - TPR.
    metrics = of([0, 0, 0, 0, 1, 1, 1], [0.5, 0.1, 0.1, 0.1, 0.5, 0.5, 0.9])
    assert metrics.eer_nearest == 1 / 4
    assert metrics.eer == pytest.approx(2 / 11)


def test_the_equal_error_rate_of_two_normal_distributions():
    # Unit variances, means two apart: Phi(-1).
    quantiles = np.sort(np.random.default_rng(1).normal(size=20_000))
    scores = 1 / (1 + np.exp(-np.concatenate([quantiles - 1, quantiles + 1])))
    eer = of([0] * 20_000 + [1] * 20_000, scores.tolist()).eer
    assert eer == pytest.approx(0.5 * math.erfc(1 / math.sqrt(2)), abs=0.003)


@pytest.mark.parametrize(("labels", "scores"), SETS)
def test_calibration_error_by_the_formula(labels: list[int], scores: list[float]):
    error = 0.0
    for m in range(1, 16):
        members = [
            (label, score)
            for label, score in zip(labels, scores, strict=True)
            if (m - 1) / 15 < score <= m / 15 or (m == 1 and score == 0)
        ]
        if members:
            share = sum(label for label, _ in members) / len(members)
            confidence = sum(score for _, score in members) / len(members)
            error += len(members) / len(labels) * abs(share - confidence)
    assert of(labels, scores).ece == pytest.approx(error, abs=1e-12)


def test_reliability_bins_hold_every_labelled_image():
    bins = of([0, 1, 1, 0], [0.0, 1.0, 0.99, 0.5]).curves.reliability
    assert [b.images for b in bins] == [1, 1, 2]
    assert (bins[0].lower, bins[-1].upper) == (0, 1)
    assert bins[-1].mean_probability == pytest.approx(0.995)
    assert bins[-1].fake_share == 1


def test_intervals_are_those_of_a_bootstrap_by_scikit_learn():
    labels, scores = (np.array(values) for values in random_set(20))
    chance = np.random.default_rng(0)
    areas = []
    for _ in range(1000):
        drawn = np.concatenate(
            [chance.choice(np.flatnonzero(labels == c), (labels == c).sum()) for c in (0, 1)]
        )
        areas.append(
            (
                sklearn_metrics.roc_auc_score(labels[drawn], scores[drawn]),
                sklearn_metrics.average_precision_score(labels[drawn], scores[drawn]),
            )
        )
    low, high = np.quantile(areas, [0.025, 0.975], axis=0)
    metrics = of(labels.tolist(), scores.tolist())
    assert metrics.auc_interval == pytest.approx((low[0], high[0]), abs=0.015)
    assert metrics.pr_auc_interval == pytest.approx((low[1], high[1]), abs=0.015)


def test_intervals_are_the_same_each_time():
    assert of(*random_set(5)) == of(*random_set(5))


@pytest.mark.parametrize(("labels", "scores"), SETS[:6])
def test_a_resample_s_areas_are_those_of_scikit_learn(labels: list[int], scores: list[float]):
    levels = sorted(set(scores))
    # Each class's images counted at each score, some twice and some not at all.
    weights = [i % 3 for i in range(len(labels))]
    weights[:2] = [1, 1]  # one of each class at least
    counts = np.zeros((2, len(levels)), np.int64)
    for label, score, weight in zip(labels, scores, weights, strict=True):
        counts[label, levels.index(score)] += weight
    roc = sklearn_metrics.roc_auc_score(labels, scores, sample_weight=weights)
    pr = sklearn_metrics.average_precision_score(labels, scores, sample_weight=weights)
    assert area_under_roc(*counts) == pytest.approx(roc)
    assert average_precision(*counts) == pytest.approx(pr)


def test_each_folder_of_fakes_against_all_reals():
    rng = random.Random(3)
    outcomes, everything = [], []
    layout = [("real", 0), ("fake/b", 1), ("fake/a", 1), ("mixed", 0), ("mixed", 1)]
    for i in range(200):
        folder, label = layout[i % len(layout)]
        score = round(rng.betavariate(1 + label, 2), 2)
        outcomes.append(judged(i, label, score, folder=folder))
        everything.append((folder, label, score))
    outcomes.append(judged(200, None, 0.5, folder="mixed"))
    folders = {folder.folder: folder for folder in measure(outcomes).folders}
    assert list(folders) == ["real", "fake/b", "fake/a", "mixed"]
    reals = [score for _, label, score in everything if label == 0]
    for name in ("fake/b", "fake/a", "mixed"):
        fakes = [score for folder, label, score in everything if folder == name and label == 1]
        pairs = [(fake > real) + (fake == real) / 2 for fake in fakes for real in reals]
        assert folders[name].auc == pytest.approx(sum(pairs) / len(pairs))
    assert folders["real"].auc is None
    mixed = folders["mixed"]
    assert (mixed.images, mixed.real, mixed.fake) == (81, 40, 40)
    members = [(label, score) for folder, label, score in everything if folder == "mixed"]
    assert mixed.accuracy == pytest.approx(
        sum(label == (score > 0.5) for label, score in members) / 80
    )
    assert mixed.mean_probability == pytest.approx((sum(s for _, s in members) + 0.5) / 81)


def test_an_unlabelled_image_and_a_failed_one_count_in_no_figure():
    labels, scores = random_set(7)
    plain = of(labels, scores)
    outcomes = [judged(i, *pair) for i, pair in enumerate(zip(labels, scores, strict=True))]
    outcomes[3:3] = [judged(900, None, 0.9), failed(901, "truncated_image")]
    metrics = measure([failed(902, "timeout"), *outcomes, failed(903, "timeout")])
    assert (metrics.images, metrics.unlabelled) == (len(labels) + 1, 1)
    assert metrics.real + metrics.fake == len(labels)
    assert list(metrics.failed.items()) == [("timeout", 2), ("truncated_image", 1)]
    for figure in ("auc", "pr_auc", "auc_interval", "accuracy", "eer", "ece", "tpr_at_1_fpr"):
        assert getattr(metrics, figure) == getattr(plain, figure)


@pytest.mark.parametrize(
    ("outcomes", "why"),
    [
        ([], "no image was judged"),
        ([failed(0, "empty")], "no image was judged"),
        ([judged(0, 1, 0.9)], "do not apply to one image"),
        ([judged(0, 1, 0.9), judged(1, 1, 0.2)], "every labelled image is fake"),
        ([judged(0, 0, 0.9), judged(1, None, 0.2)], "every labelled image is real"),
        ([judged(0, None, 0.9), judged(1, None, 0.2)], "no image has a true label"),
    ],
)
def test_why_auc_does_not_apply(outcomes: list[Outcome], why: str):
    metrics = measure(outcomes)
    assert metrics.why is not None
    assert why in metrics.why
    assert metrics.auc is metrics.pr_auc is metrics.auc_interval is metrics.eer is None
    assert metrics.curves.roc == ()


def test_one_class_has_an_accuracy():
    metrics = of([1, 1, 1], [0.9, 0.2, 0.8])
    assert metrics.accuracy == pytest.approx(2 / 3)
    assert metrics.balanced_accuracy is None


def test_the_most_confident_mistakes_come_first():
    outcomes = [judged(0, 0, 0.9), judged(1, 0, 0.2), judged(2, 1, 0.02), judged(3, 1, 0.49)]
    outcomes += [judged(4, None, 0.99), judged(5, 0, 0.9)]
    assert [outcome.index for outcome in measure(outcomes).mistakes] == [2, 0, 5, 3]


def test_mistakes_are_bounded_and_the_worst_are_kept():
    scores = [i / 1000 for i in range(501, 900)]
    random.Random(0).shuffle(scores)
    mistakes = measure(judged(i, 0, score) for i, score in enumerate(scores)).mistakes
    assert [m.fake_probability for m in mistakes] == sorted(scores, reverse=True)[:MISTAKES]


def test_latency_percentiles_are_those_of_numpy():
    seconds = np.random.default_rng(4).exponential(size=101)
    outcomes = [judged(i, None, 0.5, seconds=value) for i, value in enumerate(seconds.tolist())]
    latency = measure(outcomes).latency
    assert latency is not None
    expected = np.percentile(seconds, [50, 95, 99])
    assert [latency.p50, latency.p95, latency.p99] == pytest.approx(expected.tolist())


def test_the_histogram_is_numpys():
    scores = [0.0, 0.049, 0.05, 0.5, 0.999, 1.0]
    metrics = of([0, 1, None] * 2, scores)
    for name, members in (("real", scores[::3]), ("fake", scores[1::3])):
        expected = np.histogram(members, bins=20, range=(0, 1))[0]
        assert list(getattr(metrics.curves.histogram, name)) == expected.tolist()
    assert sum(metrics.curves.histogram.unlabelled) == 2


def test_curves_keep_their_ends_and_their_area_when_thinned():
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, 20_000)
    scores = np.clip(rng.normal(0.4 + 0.2 * labels, 0.15), 0, 1)
    metrics = of(labels.tolist(), scores.tolist())
    for curve, area in ((metrics.curves.roc, metrics.auc), (metrics.curves.pr, metrics.pr_auc)):
        x, y = zip(*curve, strict=True)
        assert len(curve) <= 402
        assert (x[0], x[-1]) == (0, 1)
        assert sklearn_metrics.auc(x, y) == pytest.approx(area, abs=0.003)


def frames(folder: str, label: int, scores: list[float], name: str = "{:03}.png") -> list[Outcome]:
    return [
        judged(0, label, score, path=f"data/{folder}/{name.format(i)}", folder=folder)
        for i, score in enumerate(scores)
    ]


VIDEOS = [
    *frames("real/000", 0, [0.1, 0.5, 0.3]),
    *frames("real/001", 0, [0.6, 0.8]),
    *frames("fake/000", 1, [0.9, 0.2, 0.7]),
    *frames("fake/001", 1, [0.9]),
]


def test_video_auc_is_of_mean_scores_by_full_path():
    metrics = measure(VIDEOS)
    # Base names would merge 000 with 000 and 001 with 001.
    expected = sklearn_metrics.roc_auc_score([0, 0, 1, 1], [0.3, 0.7, 0.6, 0.9])
    assert metrics.video_auc == pytest.approx(expected)
    assert metrics.videos == 4


def test_a_broken_frame_does_not_unmake_a_video():
    assert measure([*VIDEOS, failed(99, "truncated_image")]).video_auc == measure(VIDEOS).video_auc


@pytest.mark.parametrize(
    "outcomes",
    [
        pytest.param(VIDEOS[:5] + VIDEOS[8:], id="one fake video only"),
        pytest.param([o for i, o in enumerate(VIDEOS) if i in (0, 3, 5, 8)], id="one frame each"),
        pytest.param([*VIDEOS, *frames("real/001", 1, [0.5])], id="both labels in one folder"),
        pytest.param([*VIDEOS, *frames("fake/001", 1, [0.5], "c{}.png")], id="names that differ"),
        pytest.param([*VIDEOS, *frames("fake/3", 1, [0.5], "cover.png")], id="a name, no number"),
        pytest.param([*VIDEOS, *frames("0_real", 0, [0.1, 0.2])], id="a class's own folder"),
        pytest.param([*VIDEOS, *frames("real_fake", 0, [0.1, 0.2])], id="named for both classes"),
    ],
)
def test_what_does_not_look_like_videos(outcomes: list[Outcome]):
    metrics = measure(outcomes)
    assert metrics.auc is not None
    assert (metrics.video_auc, metrics.videos) == (None, 0)


@pytest.mark.parametrize("module", ["numpy", "sklearn"])
def test_without_the_extra_counts_remain_and_a_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, module: str
):
    monkeypatch.setitem(sys.modules, module, None)
    metrics = of([0, 1, 1], [0.1, 0.9, 0.3])
    assert metrics.why == (
        f"AUC needs {LIBRARIES['evaluate'][module]}: pip install 'clip-deepfake[evaluate]'."
    )
    assert metrics.auc is None
    assert (metrics.images, metrics.real, metrics.fake) == (3, 1, 2)
    assert metrics.accuracy == pytest.approx(2 / 3)


def test_what_an_option_needs_is_said_by_its_package_names(monkeypatch: pytest.MonkeyPatch):
    require_extra("--report")
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError) as caught:
        require_extra("--report")
    assert str(caught.value) == (
        "--report needs opencv-python-headless and matplotlib: "
        "pip install 'clip-deepfake[evaluate]'"
    )


LARGE = """
import random, time
from pathlib import Path
from deepfake_tools.evaluation.metrics import measure
from deepfake_tools.evaluation.outcomes import Outcome
chance = random.Random(0)
def outcomes():
    for i in range(100_000):
        label = i % 2
        score = min(max(chance.gauss(0.4 + 0.2 * label, 0.2), 0.0), 1.0)
        path = f"data/{'fake' if label else 'real'}/{i // 200:04}/{i:06}.png"
        yield Outcome(i, path, label, path[5:14], int(score > 0.5), score, 0.1)
start = time.monotonic()
metrics = measure(outcomes())
assert (metrics.images, metrics.videos) == (100_000, 1000)
peak = next(x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
print(time.monotonic() - start, peak.split()[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's peak memory")
def test_100_000_images_take_seconds_and_little_memory():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, "-c", LARGE], capture_output=True, text=True, check=True, env=environment
    )
    seconds, kilobytes = map(float, run.stdout.split())
    assert seconds < 60  # 5 on one free core
    # 190 MB are the libraries', pandas and pyarrow among them; the outcomes would be 60 more.
    assert kilobytes < 230 * 1024


@pytest.mark.parametrize("sign", [-1, 1])
def test_images_whose_probabilities_round_to_one_number_keep_their_ranks(sign: int):
    ranked = [sign * 50.0 + step for step in range(8)]
    labels = [0] * 4 + [1] * 4
    outcomes = [
        Outcome(i, f"{label}.png", label, "", 1, float(expit(margin)), 0.1, margin=margin)
        for i, (label, margin) in enumerate(zip(labels, ranked, strict=True))
    ]
    metrics = measure(outcomes)
    assert metrics.auc == sklearn_metrics.roc_auc_score(labels, ranked)
    assert metrics.pr_auc == sklearn_metrics.average_precision_score(labels, ranked)


def test_an_archive_that_tells_no_margins_is_ranked_by_its_probabilities():
    metrics = of([0, 1, 0, 1, 1], [0.0, 1.0, 0.4, 0.4, 1e-300])
    assert metrics.auc == sklearn_metrics.roc_auc_score([0, 1, 0, 1, 1], [0, 1, 0.4, 0.4, 1e-300])


def test_videos_whose_means_round_to_1_keep_their_ranks():
    outcomes = [
        Outcome(i, f"{label}/{video}/{i:03}.png", label, "", 1, 1.0, 0.1, margin=60.0 + 9 * video)
        for i, (label, video) in enumerate(
            (video // 2, video) for video in range(4) for _ in range(3)
        )
    ]
    assert measure(outcomes).video_auc == 1.0
