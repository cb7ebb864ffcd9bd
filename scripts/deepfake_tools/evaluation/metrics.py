"""Figures of a run: counts, accuracy, latency, videos, and AUC where the libraries are there."""

import heapq
import os
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import NamedTuple

from deepfake_tools.evaluation.figures import (
    Curves,
    Decisions,
    FolderMetrics,
    Histogram,
    Latency,
    Metrics,
    Stability,
)
from deepfake_tools.evaluation.outcomes import Outcome
from deepfake_tools.extras import MissingExtraError, require_extra
from deepfake_tools.labels import name_labels
from deepfake_tools.percentiles import percentile

BINS = 20
"""Equal bins of the probabilities' histogram over [0, 1]."""

UNLABELLED = -1
MISTAKES = 24


def measure(outcomes: Iterable[Outcome]) -> Metrics:
    """Computes what can be computed.

    The outcomes are taken one at a time and not kept. Without the libraries of the extra
    `evaluate` there are counts, accuracy and latency, and `why` says what to install.

    Args:
        outcomes: In the order of the run.
    """
    judged = Accumulator()
    for outcome in outcomes:
        judged.add(outcome)
    metrics = _counted(judged)
    if metrics.why is not None:
        return metrics
    try:
        require_extra("AUC", "numpy", "sklearn")
    except MissingExtraError as error:
        return replace(metrics, why=f"{error}.")
    return _ranked(metrics, judged)


@dataclass(slots=True)
class Directory:
    """The labelled images of one directory, added up.

    Attributes:
        images: How many.
        fake: How many of them are labelled fake.
        probability: Sum of their `fake_probability`.
        score: Sum of their scores.
        pattern: What their names have in common when digits are left out; None when nothing.
    """

    images: int = 0
    fake: int = 0
    probability: float = 0.0
    score: float = 0.0
    pattern: str | None = None

    def add(self, name: str, label: int, probability: float, score: float) -> None:
        """Takes in one image.

        Args:
            name: Its file name.
            label: 0 real, 1 fake.
            probability: Its `fake_probability`.
            score: What it is ranked by.
        """
        pattern = re.sub(r"\d+", "#", PurePath(name).stem)
        if self.images == 0 and "#" in pattern:
            self.pattern = pattern
        elif pattern != self.pattern:
            self.pattern = None
        self.images += 1
        self.fake += label
        self.probability += probability
        self.score += score


@dataclass(slots=True)
class FolderCounts:
    """The judged images of one folder.

    Attributes:
        images: All of them, labelled or not.
        real: Those labelled real.
        fake: Those labelled fake.
        right: Labelled ones whose prediction is their label.
        probability: Sum of `fake_probability` over all of them.
    """

    images: int = 0
    real: int = 0
    fake: int = 0
    right: int = 0
    probability: float = 0.0


class Accumulator:
    """What the figures need of a run; it holds no outcome but the most confident mistakes.

    Attributes:
        failed: How many images failed, by kind.
        right: Predictions that are the label, of real images and of fake ones.
        folders: By the outcomes' folder, in the order in which they came.
        directories: Labelled images by the full path of the directory that they lie in.
        scores: `score` of each judged image, by which they are ranked.
        probabilities: `fake_probability` of the same images.
        labels: Of the same images: 0 real, 1 fake, -1 not known.
        places: Of the same images: the position of their folder in `folders`.
        seconds: Of the same images: the latency of the request that they travelled in.
        histogram: Judged images by label (0, 1, -1) in `BINS` equal bins of their probability.
        decisions: Images by label and decision.
        stability: Images by whether they are unstable.
    """

    def __init__(self) -> None:
        self.failed: Counter[str] = Counter()
        self.right = [0, 0]
        self.folders: dict[str, FolderCounts] = {}
        self.directories: dict[str, Directory] = {}
        self.scores = array("d")
        self.probabilities = array("d")
        self.labels = array("b")
        self.places = array("l")
        self.seconds = array("d")
        self.histogram = {label: [0] * BINS for label in (0, 1, UNLABELLED)}
        self.decisions: Counter[tuple[int, str]] = Counter()
        self.stability: Counter[bool] = Counter()
        self._places: dict[str, int] = {}
        self._mistakes: list[tuple[float, int, Outcome]] = []

    def add(self, outcome: Outcome) -> None:
        """Takes in one outcome."""
        probability, score = outcome.fake_probability, outcome.score
        if probability is None or score is None:
            self.failed[outcome.error or "unknown"] += 1
            return
        label = UNLABELLED if outcome.label is None else outcome.label
        self.scores.append(score)
        self.probabilities.append(probability)
        self.labels.append(label)
        self.seconds.append(outcome.seconds)
        self.places.append(self._places.setdefault(outcome.folder, len(self._places)))
        self.histogram[label][min(int(probability * BINS), BINS - 1)] += 1
        if outcome.decision is not None:
            self.decisions[label, outcome.decision] += 1
        if outcome.unstable is not None:
            self.stability[outcome.unstable] += 1
        self._count(outcome, probability)
        if label != UNLABELLED:
            directory, name = os.path.split(outcome.path)
            self.directories.setdefault(directory, Directory()).add(name, label, probability, score)
            self._check(outcome, label, score)

    def count(self, label: int) -> int:
        """Returns how many judged images have this label."""
        return sum(self.histogram[label])

    @property
    def mistakes(self) -> tuple[Outcome, ...]:
        """The labelled images judged wrongly with most confidence, at most `MISTAKES`."""
        return tuple(outcome for *_, outcome in sorted(self._mistakes, reverse=True))

    def _count(self, outcome: Outcome, probability: float) -> None:
        counts = self.folders.setdefault(outcome.folder, FolderCounts())
        counts.images += 1
        counts.real += outcome.label == 0
        counts.fake += outcome.label == 1
        counts.right += outcome.label is not None and outcome.label == outcome.prediction
        counts.probability += probability

    def _check(self, outcome: Outcome, label: int, score: float) -> None:
        if outcome.prediction == label:
            self.right[label] += 1
            return
        # Of equally wrong ones the first in the run come first, so that runs can be compared.
        entry = (-score if label else score, -len(self.scores), outcome)
        if len(self._mistakes) < MISTAKES:
            heapq.heappush(self._mistakes, entry)
        else:
            heapq.heappushpop(self._mistakes, entry)


def _counted(judged: Accumulator) -> Metrics:
    """Returns the figures that need no library."""
    real, fake = judged.count(0), judged.count(1)
    right_real, right_fake = judged.right
    return Metrics(
        images=len(judged.scores),
        real=real,
        fake=fake,
        unlabelled=judged.count(UNLABELLED),
        failed=dict(judged.failed.most_common()),
        # In the order in which they came: `_ranked` finds them by their position.
        folders=tuple(_folder(name, counts) for name, counts in judged.folders.items()),
        curves=Curves(Histogram(*(tuple(judged.histogram[k]) for k in (0, 1, UNLABELLED)))),
        latency=_latency(sorted(judged.seconds)),
        mistakes=judged.mistakes,
        why=_why_no_auc(len(judged.scores), real, fake),
        decisions=tuple(_decisions(judged.decisions)),
        stability=_stability(judged.stability),
        accuracy=(right_real + right_fake) / (real + fake) if real or fake else None,
        balanced_accuracy=(right_real / real + right_fake / fake) / 2 if real and fake else None,
    )


def _folder(name: str, counts: FolderCounts) -> FolderMetrics:
    labelled = counts.real + counts.fake
    return FolderMetrics(
        folder=name,
        images=counts.images,
        real=counts.real,
        fake=counts.fake,
        auc=None,
        accuracy=counts.right / labelled if labelled else None,
        mean_probability=counts.probability / counts.images,
    )


def _decisions(counts: Counter[tuple[int, str]]) -> Iterator[Decisions]:
    for label, name in ((0, "real"), (1, "fake"), (UNLABELLED, "unlabelled")):
        fake, unsure, real = (counts[label, ruling] for ruling in ("FAKE", "UNSURE", "REAL"))
        if images := fake + unsure + real:
            yield Decisions(name, images, fake, unsure, real)


def _stability(counts: Counter[bool]) -> Stability | None:
    return Stability(counts.total(), counts[True]) if counts else None


def _latency(seconds: list[float]) -> Latency | None:
    if not seconds:
        return None
    p50, p95, p99 = (percentile(seconds, share) for share in (0.50, 0.95, 0.99))
    return Latency(p50, p95, p99)


def _why_no_auc(images: int, real: int, fake: int) -> str | None:
    if real and fake:
        return None
    if images == 0:
        return "AUC and PR-AUC do not apply: no image was judged."
    if images == 1:
        return "AUC and PR-AUC do not apply to one image: they compare the scores of two classes."
    if real or fake:
        return (
            "AUC and PR-AUC do not apply: they compare the scores of two classes, and every "
            f"labelled image is {'real' if real else 'fake'}."
        )
    return "AUC and PR-AUC do not apply: no image has a true label, real or fake, to compare with."


def _ranked(metrics: Metrics, judged: Accumulator) -> Metrics:
    """Adds AUC and its like; needs the extra `evaluate`, and images of either class."""
    # A second's import, which a run without labels can do without.
    import numpy as np

    from deepfake_tools.evaluation import ranking

    all_labels, all_scores = np.frombuffer(judged.labels, np.int8), np.frombuffer(judged.scores)
    labelled = all_labels != UNLABELLED
    labels, scores = all_labels[labelled], all_scores[labelled]
    places = np.frombuffer(judged.places, np.dtype(judged.places.typecode))[labelled]
    intervals = ranking.bootstrap(labels, scores)
    bins = ranking.reliability(labels, np.frombuffer(judged.probabilities)[labelled])
    folder_aucs = ranking.auc_by_group(labels, scores, places, len(metrics.folders))
    videos = video_scores(judged.directories)
    return replace(
        metrics,
        auc=ranking.roc_auc(labels, scores),
        auc_interval=intervals.auc,
        pr_auc=ranking.pr_auc(labels, scores),
        pr_auc_interval=intervals.pr_auc,
        eer=ranking.equal_error_rate(labels, scores),
        eer_nearest=ranking.nearest_error_rate(labels, scores),
        tpr_at_1_fpr=ranking.tpr_at_fpr(labels, scores, 0.01),
        tpr_at_01_fpr=ranking.tpr_at_fpr(labels, scores, 0.001),
        ece=ranking.calibration_error(bins),
        video_auc=None
        if videos is None
        else ranking.roc_auc(np.array(videos.labels, np.int8), np.array(videos.scores, np.float64)),
        videos=0 if videos is None else len(videos.labels),
        folders=tuple(
            replace(folder, auc=auc)
            for folder, auc in zip(metrics.folders, folder_aucs, strict=True)
        ),
        curves=Curves(
            histogram=metrics.curves.histogram,
            roc=ranking.roc_curve(labels, scores),
            pr=ranking.pr_curve(labels, scores),
            reliability=bins,
        ),
    )


class Videos(NamedTuple):
    """A label (0 real, 1 fake) and a score for each video; higher is more fake."""

    labels: list[int]
    scores: list[int]


def video_scores(directories: Mapping[str, Directory]) -> Videos | None:
    """Returns the label and the score of each video, or None where there are no videos.

    A video's score is its place by the mean of its frames' probabilities, as in DeepfakeBench's
    `get_video_metrics` (https://github.com/SCLBD/DeepfakeBench, training/metrics/utils.py); of
    equal means, as those that round to 1 are, by the mean of their own scores. DeepfakeBench groups
    frames by the base name of their folder, which merges `real/000` and `fake/000`; here it is the
    full path.

    The directories are taken for videos when all of these hold:

    - there are at least two of either class, and two images in each on average;
    - the images of each have one label, and one name but for its digits, as frames do;
    - none is named for a class, as `real` or `1_fake` are.

    Args:
        directories: Labelled images by the directory's full path.
    """
    videos = directories.values()
    fake = sum(video.fake > 0 for video in videos)
    if min(fake, len(videos) - fake) < 2 or sum(v.images for v in videos) < 2 * len(videos):
        return None
    if not all(video.pattern and video.fake in (0, video.images) for video in videos):
        return None
    if any(name_labels(PurePath(directory).name) for directory in directories):
        return None
    labels = [int(video.fake > 0) for video in videos]
    means = [(video.probability / video.images, video.score / video.images) for video in videos]
    places = {mean: place for place, mean in enumerate(sorted(set(means)))}
    return Videos(labels, [places[mean] for mean in means])
