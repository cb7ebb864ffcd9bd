"""Every figure about a run of images, as plain data: what results file and report are made of."""

from collections.abc import Iterator, Mapping
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
class GeneratorMetrics:
    """The fake images of one folder, as a generator makes them, against all real ones of the run.

    Attributes:
        auc: Area under the ROC curve.
        tpr_at_1_fpr: Share of its fakes that a threshold finds which calls at most 1 % of the
            run's real images fake.
        tpr_at_01_fpr: The same at 0.1 %.
        auc_interval: 95 %, bootstrap; None where the run has one folder, or very many generators.
        tpr_at_1_fpr_interval: Likewise.
        tpr_at_01_fpr_interval: Likewise.
    """

    auc: float
    tpr_at_1_fpr: float
    tpr_at_01_fpr: float
    auc_interval: Interval | None = None
    tpr_at_1_fpr_interval: Interval | None = None
    tpr_at_01_fpr_interval: Interval | None = None


@dataclass(frozen=True)
class MacroAverage:
    """The mean over generators, each of the same weight however many images it has.

    Attributes:
        generators: How many folders with fake images there are.
        auc: Mean of their `auc`; the others likewise.
    """

    generators: int
    auc: float
    tpr_at_1_fpr: float
    tpr_at_01_fpr: float
    auc_interval: Interval
    tpr_at_1_fpr_interval: Interval
    tpr_at_01_fpr_interval: Interval


@dataclass(frozen=True)
class Confusion:
    """What a threshold calls the labelled images; the label in their answers is the detector's own.

    Attributes:
        threshold: FAKE above it.
        real_as_real: Real images at or below it.
        real_as_fake: Real images above it.
        fake_as_real: Fake images at or below it.
        fake_as_fake: Fake images above it.
    """

    threshold: float
    real_as_real: int
    real_as_fake: int
    fake_as_real: int
    fake_as_fake: int

    @property
    def shares(self) -> Iterator[tuple[str, float]]:
        """The shares that can be told of it, each with its name."""
        real, fake = self.real_as_real + self.real_as_fake, self.fake_as_real + self.fake_as_fake
        called = self.real_as_fake + self.fake_as_fake
        if real:
            yield "FPR", self.real_as_fake / real
        if fake:
            yield "TPR", self.fake_as_fake / fake
        if called:
            yield "precision", self.fake_as_fake / called
        if real or fake:
            yield "accuracy", (self.real_as_real + self.fake_as_fake) / (real + fake)


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
        tpr_at_1_fpr: As in `GeneratorMetrics`, with the others; None where `auc` is.
    """

    folder: str
    images: int
    real: int
    fake: int
    auc: float | None
    accuracy: float | None
    mean_probability: float
    tpr_at_1_fpr: float | None = None
    tpr_at_01_fpr: float | None = None
    auc_interval: Interval | None = None
    tpr_at_1_fpr_interval: Interval | None = None
    tpr_at_01_fpr_interval: Interval | None = None


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
class Difference:
    """One figure of two runs over the same images.

    Attributes:
        first: The first run's.
        second: The second's.
        interval: 95 %, of the second less the first: bootstrap, as of one run's figures, each image
            drawn for both; None where the figure does not apply to a resample.
        p: Two-sided, that both are equal: by DeLong's test of two areas, by McNemar's of two
            accuracies; None where the images show no variance.
    """

    first: float
    second: float
    interval: Interval | None
    p: float | None

    @property
    def change(self) -> float:
        """The second less the first."""
        return self.second - self.first


@dataclass(frozen=True)
class PairedComparison:
    """Two detectors, or versions of one, on the labelled images that both have judged.

    Attributes:
        first: The first run's name.
        second: The second's.
        real: Images labelled real that both have judged.
        fake: Those labelled fake.
        only_first: Images that the first run alone has.
        only_second: Images that the second alone has.
        unjudged: Images that both have, and one has no verdict on.
        unlabelled: Images that both have judged, without a true label.
        auc: None where a class is missing.
        accuracy: Each at its own detector's threshold.
        first_alone: Images that the first alone gets right.
        second_alone: Images that the second alone gets right.
        exact: Whether McNemar's test is the binomial one, of few such images.
    """

    first: str
    second: str
    real: int
    fake: int
    only_first: int
    only_second: int
    unjudged: int
    unlabelled: int
    auc: Difference | None
    accuracy: Difference
    first_alone: int
    second_alone: int
    exact: bool


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
        latency: None when no image was judged, or none was timed.
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
        macro: The mean over the folders with fake images; None of fewer than two.
        confusion: At a threshold that was asked for; None where none was.
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
    macro: MacroAverage | None = None
    confusion: Confusion | None = None
    video_auc: float | None = None
    videos: int = 0
    decisions: tuple[Decisions, ...] = ()
    stability: Stability | None = None
    video_score: VideoScore | None = None
    video_accuracy: float | None = None
    video_failed: Mapping[str, int] = field(default_factory=dict)
    faceless: int = 0
    video_mistakes: tuple[VideoVerdict, ...] = ()
