"""Figures of a run: counts, accuracy, latency, videos, and AUC where the libraries are there."""

import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from deepfake_tools.evaluation.figures import (
    Confusion,
    Curves,
    Decisions,
    FolderMetrics,
    GeneratorMetrics,
    Histogram,
    Latency,
    Metrics,
    Stability,
)
from deepfake_tools.evaluation.mistakes import Mistakes
from deepfake_tools.evaluation.outcomes import Outcome
from deepfake_tools.evaluation.video_metrics import Directory, VideoAccumulator, folder_videos
from deepfake_tools.evaluation.videos import (
    VideoScore,
    VideoScoring,
    by_video,
    judge_video,
)
from deepfake_tools.extras import MissingExtraError, require_extra
from deepfake_tools.percentiles import percentile

BINS = 20
"""Equal bins of the probabilities' histogram over [0, 1]."""

UNLABELLED = -1
MISTAKES = 24


def measure(
    outcomes: Iterable[Outcome],
    scoring: VideoScoring | None = None,
    threshold: float | None = None,
) -> Metrics:
    """Computes what can be computed.

    The outcomes are taken one at a time and not kept, but for the frames of one video. Without the
    libraries of the extra `evaluate` there are counts, accuracy and latency, and `why` says what to
    install.

    Args:
        outcomes: In the order of the run.
        scoring: How videos are judged; by the mean of their frames if None.
        threshold: Of the confusion matrix; None asks for none.
    """
    scoring = scoring or VideoScoring()
    judged = Accumulator()
    for video, group in by_video(outcomes):
        if video is None:
            for outcome in group:
                judged.add(outcome)
            continue
        frames = list(group)
        for outcome in frames:
            judged.add(outcome)
        judged.videos.add(judge_video(frames, scoring))
    metrics = _counted(judged, scoring.how)
    if threshold is not None:
        metrics = replace(metrics, confusion=_confusion(judged, threshold))
    if metrics.why is not None:
        return metrics
    try:
        require_extra("AUC", "numpy", "sklearn")
    except MissingExtraError as error:
        return replace(metrics, why=f"{error}.")
    return _ranked(metrics, judged)


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
        faceless: Frames of videos without a verdict for want of a face.
        videos: The videos that the run came to.
        right: Predictions that are the label, of real images and of fake ones.
        folders: By the outcomes' folder, in the order in which they came.
        directories: Labelled images, frames of videos left out, by the full path of the directory
            that they lie in.
        scores: `score` of each judged image, by which they are ranked.
        probabilities: `fake_probability` of the same images.
        labels: Of the same images: 0 real, 1 fake, -1 not known.
        places: Of the same images: the position of their folder in `folders`.
        seconds: Of those that were timed: the latency of the request that they travelled in.
        histogram: Judged images by label (0, 1, -1) in `BINS` equal bins of their probability.
        decisions: Images by label and decision.
        stability: Images by whether they are unstable.
        mistakes: The labelled images judged wrongly with most confidence.
    """

    def __init__(self) -> None:
        self.failed: Counter[str] = Counter()
        self.faceless = 0
        self.videos = VideoAccumulator()
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
        self.mistakes = Mistakes[Outcome](MISTAKES)
        self._places: dict[str, int] = {}

    def add(self, outcome: Outcome) -> None:
        """Takes in one outcome."""
        probability, score = outcome.fake_probability, outcome.score
        if outcome.is_left_out:
            self.faceless += 1
            return
        if probability is None or score is None:
            self.failed[outcome.error or "unknown"] += 1
            return
        label = UNLABELLED if outcome.label is None else outcome.label
        self.scores.append(score)
        self.probabilities.append(probability)
        self.labels.append(label)
        if outcome.seconds is not None:
            self.seconds.append(outcome.seconds)
        self.places.append(self._places.setdefault(outcome.folder, len(self._places)))
        self.histogram[label][min(int(probability * BINS), BINS - 1)] += 1
        if outcome.decision is not None:
            self.decisions[label, outcome.decision] += 1
        if outcome.unstable is not None:
            self.stability[outcome.unstable] += 1
        self._count(outcome, probability)
        if label == UNLABELLED:
            return
        if outcome.video is None:
            directory, name = os.path.split(outcome.path)
            self.directories.setdefault(directory, Directory()).add(name, label, probability, score)
        if outcome.prediction == label:
            self.right[label] += 1
        else:
            self.mistakes.add((-score if label else score,), outcome)

    def count(self, label: int) -> int:
        """Returns how many judged images have this label."""
        return sum(self.histogram[label])

    def _count(self, outcome: Outcome, probability: float) -> None:
        counts = self.folders.setdefault(outcome.folder, FolderCounts())
        counts.images += 1
        counts.real += outcome.label == 0
        counts.fake += outcome.label == 1
        counts.right += outcome.label is not None and outcome.label == outcome.prediction
        counts.probability += probability


def _counted(judged: Accumulator, how: VideoScore) -> Metrics:
    """Returns the figures that need no library."""
    videos = judged.videos
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
        mistakes=judged.mistakes.worst(),
        why=_why_no_auc(len(judged.scores), real, fake),
        decisions=tuple(_decisions(judged.decisions)),
        stability=_stability(judged.stability),
        accuracy=(right_real + right_fake) / (real + fake) if real or fake else None,
        balanced_accuracy=(right_real / real + right_fake / fake) / 2 if real and fake else None,
        videos=videos.judged,
        video_score=how if videos.judged or videos.failed else None,
        video_accuracy=videos.right / len(videos.labelled.labels)
        if videos.labelled.labels
        else None,
        video_failed=dict(videos.failed.most_common()),
        faceless=judged.faceless,
        video_mistakes=videos.mistakes.worst(),
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


def _confusion(judged: Accumulator, threshold: float) -> Confusion:
    counts: Counter[tuple[int, bool]] = Counter()
    for label, probability in zip(judged.labels, judged.probabilities, strict=True):
        counts[label, probability > threshold] += 1
    return Confusion(
        threshold, *(counts[label, called] for label in (0, 1) for called in (False, True))
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

    from deepfake_tools.evaluation import generators, ranking

    all_labels, all_scores = np.frombuffer(judged.labels, np.int8), np.frombuffer(judged.scores)
    labelled = all_labels != UNLABELLED
    labels, scores = all_labels[labelled], all_scores[labelled]
    places = np.frombuffer(judged.places, np.dtype(judged.places.typecode))[labelled]
    intervals = ranking.bootstrap(labels, scores)
    bins = ranking.reliability(labels, np.frombuffer(judged.probabilities)[labelled])
    folders, macro = generators.by_generator(labels, scores, places, len(metrics.folders))
    return replace(
        _with_video_auc(metrics, judged),
        auc=ranking.roc_auc(labels, scores),
        auc_interval=intervals.auc,
        pr_auc=ranking.pr_auc(labels, scores),
        pr_auc_interval=intervals.pr_auc,
        eer=ranking.equal_error_rate(labels, scores),
        eer_nearest=ranking.nearest_error_rate(labels, scores),
        tpr_at_1_fpr=ranking.tpr_at_fpr(labels, scores, 0.01),
        tpr_at_01_fpr=ranking.tpr_at_fpr(labels, scores, 0.001),
        ece=ranking.calibration_error(bins),
        folders=tuple(
            _with_fakes(folder, own) for folder, own in zip(metrics.folders, folders, strict=True)
        ),
        macro=macro,
        curves=Curves(
            histogram=metrics.curves.histogram,
            roc=ranking.roc_curve(labels, scores),
            pr=ranking.pr_curve(labels, scores),
            reliability=bins,
        ),
    )


def _with_fakes(folder: FolderMetrics, own: GeneratorMetrics | None) -> FolderMetrics:
    """Adds what the folder's fake images say, where it has some."""
    if own is None:
        return folder
    return replace(
        folder,
        auc=own.auc,
        tpr_at_1_fpr=own.tpr_at_1_fpr,
        tpr_at_01_fpr=own.tpr_at_01_fpr,
        auc_interval=own.auc_interval,
        tpr_at_1_fpr_interval=own.tpr_at_1_fpr_interval,
        tpr_at_01_fpr_interval=own.tpr_at_01_fpr_interval,
    )


def _with_video_auc(metrics: Metrics, judged: Accumulator) -> Metrics:
    """Adds the AUC of the run's videos, or else of the folders that look like videos."""
    import numpy as np

    from deepfake_tools.evaluation import ranking

    found = judged.videos.labelled
    if metrics.video_score is None:
        folders = folder_videos(judged.directories)
        if folders is None:
            return metrics
        found, metrics = folders, replace(metrics, videos=len(folders.labels))
    if len(set(found.labels)) < 2:
        return metrics
    labels, places = np.array(found.labels, np.int8), np.array(found.places(), np.float64)
    return replace(metrics, video_auc=ranking.roc_auc(labels, places))
