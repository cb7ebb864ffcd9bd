"""Every figure about a run of images, as plain data: what results file and report are made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from deepfake_tools.evaluation.outcomes import Outcome
from deepfake_tools.evaluation.videos import VideoScore, VideoVerdict

CONFIDENCE = 0.95
RESAMPLES = 1000
"""Bootstrap resamples behind an interval."""

Interval = tuple[float, float]
Point = tuple[float, float]


@dataclass(frozen=True)
class Bin:
    """One bin of the reliability diagram, over the probabilities of FAKE in (lower, upper].

    Attributes:
        lower: Its lower edge; the first bin holds 0 too.
        upper: Its upper edge.
        images: Labelled images in it, at least one.
        mean_probability: Mean of their `fake_probability`.
        fake_share: Share of them that is fake.
    """

    lower: float
    upper: float
    images: int
    mean_probability: float
    fake_share: float


@dataclass(frozen=True)
class Histogram:
    """Judged images in equal bins of `fake_probability` over [0, 1], by true label."""

    real: tuple[int, ...]
    fake: tuple[int, ...]
    unlabelled: tuple[int, ...]


@dataclass(frozen=True)
class Curves:
    """What there is to draw.

    Attributes:
        histogram: Scores by class.
        roc: (FPR, TPR), at most about 400 points; empty where AUC does not apply.
        pr: (recall, precision) by growing recall; empty where AUC does not apply.
        reliability: Bins with an image in them; empty where AUC does not apply.
    """

    histogram: Histogram
    roc: tuple[Point, ...] = ()
    pr: tuple[Point, ...] = ()
    reliability: tuple[Bin, ...] = ()


@dataclass(frozen=True)
class FolderMetrics:
    """One folder's judged images.

    Attributes:
        folder: Relative to the root given with --image; empty for the root itself.
        images: Labelled or not.
        real: Those labelled real.
        fake: Those labelled fake.
        auc: Its fake images against all real images of the run; None where either is missing.
        accuracy: At the card's threshold; None without labels.
        mean_probability: Mean `fake_probability`.
    """

    folder: str
    images: int
    real: int
    fake: int
    auc: float | None
    accuracy: float | None
    mean_probability: float


@dataclass(frozen=True)
class Latency:
    """Seconds of the requests that judged images travelled in; each image counts once."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Decisions:
    """How images of one true label are called, at the card's rate of false alarms.

    Attributes:
        label: real, fake or unlabelled.
        images: How many were decided on.
        fake: Those called FAKE.
        unsure: Those called UNSURE.
        real: Those called REAL.
    """

    label: str
    images: int
    fake: int
    unsure: int
    real: int


@dataclass(frozen=True)
class Stability:
    """Of how many images a small change was asked about, and how many are called otherwise then."""

    images: int
    unstable: int

    @property
    def share(self) -> float:
        """The share of unstable ones."""
        return self.unstable / self.images


@dataclass(frozen=True)
class Metrics:
    """Every figure about a run; None for what cannot be computed from it.

    Attributes:
        images: Judged images; the failed ones are not among them.
        real: Those labelled real.
        fake: Those labelled fake.
        unlabelled: Those without a true label, left out of the figures below.
        failed: How many images failed, by kind, the most frequent first.
        folders: In the order in which the run came to them.
        curves: What there is to draw.
        latency: None when no image was judged.
        mistakes: The most confident ones first, at most 24.
        why: A sentence on why AUC does not apply; None where it does.
        accuracy: Share of predictions, at the card's threshold, that are the label.
        balanced_accuracy: Mean of that share over both classes.
        auc: Area under the ROC curve.
        auc_interval: 95 %, stratified bootstrap of 1000 resamples with a fixed seed.
        pr_auc: Average precision; fake is the positive class.
        pr_auc_interval: As for `auc`.
        eer: Equal error rate, by linear interpolation on the ROC curve.
        eer_nearest: As DeepfakeBench has it: FPR of the curve's point that is nearest to it.
        tpr_at_1_fpr: Largest TPR of a threshold with FPR at most 1 %.
        tpr_at_01_fpr: The same at 0.1 %.
        ece: Expected calibration error of `fake_probability` in 15 equal bins.
        video_auc: AUC of the videos' scores; None where it does not apply.
        videos: How many videos were judged, or how many folders were taken for videos.
        decisions: For each label that there is; empty without a decision on the card.
        stability: Under small changes; None where they were not asked about.
        video_score: How a video's score comes from its frames'; None where there are no videos, or
            they are folders of frames.
        video_accuracy: Share of the videos' predictions that are the label.
        video_failed: How many videos have no verdict, by kind, the most frequent first.
        faceless: Frames of videos that were not judged for want of a face; not among `failed`.
        video_mistakes: The videos judged wrongly with most confidence, at most 12, each with no
            more of its frames than a drawing shows.
    """

    images: int
    real: int
    fake: int
    unlabelled: int
    failed: Mapping[str, int]
    folders: tuple[FolderMetrics, ...]
    curves: Curves
    latency: Latency | None
    mistakes: tuple[Outcome, ...]
    why: str | None = None
    accuracy: float | None = None
    balanced_accuracy: float | None = None
    auc: float | None = None
    auc_interval: Interval | None = None
    pr_auc: float | None = None
    pr_auc_interval: Interval | None = None
    eer: float | None = None
    eer_nearest: float | None = None
    tpr_at_1_fpr: float | None = None
    tpr_at_01_fpr: float | None = None
    ece: float | None = None
    video_auc: float | None = None
    videos: int = 0
    decisions: tuple[Decisions, ...] = ()
    stability: Stability | None = None
    video_score: VideoScore | None = None
    video_accuracy: float | None = None
    video_failed: Mapping[str, int] = field(default_factory=dict)
    faceless: int = 0
    video_mistakes: tuple[VideoVerdict, ...] = ()
