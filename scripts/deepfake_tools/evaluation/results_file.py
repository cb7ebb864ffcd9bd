"""The results file: the research script's own section, and figures of our own below it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from deepfake_tools.evaluation.comparison_lines import comparison_lines
from deepfake_tools.evaluation.figures import (
    CONFIDENCE,
    RESAMPLES,
    Interval,
    Metrics,
    PairedComparison,
)
from deepfake_tools.evaluation.folder_lines import folder_lines
from deepfake_tools.evaluation.outcomes import LABELS, Outcome, Totals
from deepfake_tools.evaluation.perturbations import PerturbedRun
from deepfake_tools.evaluation.video_lines import one_line_of, video_figures, video_section
from deepfake_tools.evaluation.videos import VideoScoring, VideoVerdict, judge_videos
from deepfake_tools.files import replacing

TITLE = "Deepfake Detection Results (HuggingFace Model)"
RULE = "=" * 80
NAMES_NEEDED = "- Images with 'real' or 'fake' in directory names"
SAMPLE_NAMES = 5

INTERVAL = f"{CONFIDENCE:.0%} interval (stratified bootstrap, {RESAMPLES} resamples)"
TRAINED_ON = (
    "these are the images that the detector was trained on, so that the figures say little about "
    "others: --labels with the list that train.py writes, as head.held_out.csv, counts those alone "
    "that it held out"
)
UNTRAINED = "The detector's head is untrained: these figures are chance, not evidence."


@dataclass(frozen=True)
class Run:
    """A run over images, finished or not.

    Attributes:
        images: How many there are to ask about.
        outcomes: Gives what became of those that were asked, in order; it can be called again.
        metrics: The figures about them.
        totals: What holds for the run as a whole.
        missing: How many images were not asked about, because the run ended before.
        perturbed: The figures under each perturbation, in the order of --perturb.
        comparisons: With other runs over the same images.
        scoring: How videos are judged.
        maps: The folder of the images' explanations; None where none were asked for.
        is_trained_on: Whether its images are those that the detector was trained on.
        remedy: What asks about the missing ones; empty where nothing is known to.
    """

    images: int
    outcomes: Callable[[], Iterable[Outcome]]
    metrics: Metrics
    totals: Totals
    missing: int = 0
    perturbed: Sequence[PerturbedRun] = ()
    comparisons: Sequence[PairedComparison] = ()
    scoring: VideoScoring = field(default_factory=VideoScoring)
    maps: Path | None = None
    is_trained_on: bool = False
    remedy: str = ""

    def videos(self) -> Iterator[VideoVerdict]:
        """Yields the verdict on each video, in order; it can be called again."""
        return judge_videos(self.outcomes(), self.scoring)

    @property
    def is_complete(self) -> bool:
        """Whether every image was asked about."""
        return self.missing == 0

    @property
    def not_asked(self) -> str:
        """How many images are missing, and what asks about them."""
        count = f"{self.missing} images were not asked"
        return f"{count}: {self.remedy}" if self.remedy else count

    @property
    def lacks_libraries(self) -> bool:
        """Whether there would be an AUC if the libraries for it were installed."""
        return self.metrics.auc is None and self.metrics.real > 0 and self.metrics.fake > 0


def write_results(path: Path, run: Run) -> None:
    """Writes the results file whole, or not at all.

    Args:
        path: The file to write; one that is there is replaced.
        run: What to write.

    Raises:
        OSError: The file cannot be written.
    """
    with replacing(path) as file:
        file.writelines(f"{line}\n" for line in format_results(run))


def format_results(run: Run) -> Iterator[str]:
    """Yields the results file's lines.

    All above the last rule is to the letter what the research script writes: a parser of its file
    reads this one too. "Prob" is the probability of FAKE whatever the label, since the AUC is
    computed from it. An image without a verdict keeps its number [i/n], but is listed apart from
    the predictions.
    """
    yield from (TITLE, RULE, "")
    for outcome in run.outcomes():
        if outcome.error is None:
            yield _line(outcome, run.images, _prediction(outcome))
    yield from ("", RULE, "PERFORMANCE METRICS", RULE, "")
    yield from _performance(run)
    yield from (RULE, "")
    yield from _summary(run)
    if run.metrics.failed:
        yield from ("", f"FAILED IMAGES: {sum(run.metrics.failed.values())}")
        for outcome in run.outcomes():
            if outcome.error is not None and not outcome.is_left_out:
                yield _line(outcome, run.images, f"Failed: {outcome.message}")
    if run.metrics.faceless:
        yield from ("", f"FRAMES WITHOUT A FACE: {run.metrics.faceless}")
        for outcome in run.outcomes():
            if outcome.is_left_out:
                yield _line(outcome, run.images, f"Left out: {outcome.message}")


def headline(metrics: Metrics) -> Iterator[str]:
    """Yields the two figures that the research script prints too, or why there are none."""
    if metrics.auc is None or metrics.pr_auc is None:
        yield metrics.why or "AUC and PR-AUC do not apply."
        return
    yield f"AUC (Area Under ROC Curve): {metrics.auc:.4f}"
    yield f"PR-AUC (Area Under Precision-Recall Curve): {metrics.pr_auc:.4f}"


def _performance(run: Run) -> Iterator[str]:
    metrics = run.metrics
    if metrics.images == 1:
        yield "Single image processed - AUC calculation not applicable."
    if metrics.images < 2:
        return
    yield from _true_labels(run)
    if not (metrics.real and metrics.fake):
        yield from _one_class(run)
    elif metrics.auc is None:
        yield f"[Warning] Could not calculate AUC: {metrics.why}"
        yield "AUC calculation may require:"
        yield NAMES_NEEDED
    else:
        yield f"Total images processed: {metrics.images}"
        yield f"Real images: {metrics.real}"
        yield f"Fake images: {metrics.fake}"
        yield from headline(metrics)


def _true_labels(run: Run) -> Iterator[str]:
    yield "TRUE LABELS (for verification):"
    labelled = (o for o in run.outcomes() if o.error is None and o.label is not None)
    for number, outcome in enumerate(labelled, start=1):
        yield f"[{number}] {_file_name(outcome):>30} -> {LABELS[outcome.label]}"
    yield from ("", f"Unique true labels found: {set(_classes(run.metrics))}", "")


def _one_class(run: Run) -> Iterator[str]:
    # Of images without any label the script says FAKE too; the summary says how it is.
    only = "REAL" if run.metrics.real else "FAKE"
    yield "[WARNING] Cannot calculate AUC - only one class present in true labels"
    yield f"Classes found: {_classes(run.metrics)}"
    yield f"This means the dataset appears to contain only {only} images"
    yield from ("", "For AUC calculation, the dataset should contain both:", NAMES_NEEDED)
    yield from ("", "Sample filenames from your dataset:")
    judged = (outcome for outcome in run.outcomes() if outcome.error is None)
    yield from (f"  {_file_name(outcome)}" for outcome in islice(judged, SAMPLE_NAMES))


def _classes(metrics: Metrics) -> list[int]:
    return [label for label, images in enumerate((metrics.real, metrics.fake)) if images]


def _file_name(outcome: Outcome) -> str:
    return one_line_of(Path(outcome.path).name)


def _line(outcome: Outcome, images: int, what: str) -> str:
    name = f"{_file_name(outcome):>30}"
    return f"[{outcome.index + 1}/{images}] {name} | {what} | Path: {one_line_of(outcome.path)}"


def _prediction(outcome: Outcome) -> str:
    return (
        f"True: {LABELS[outcome.label]:>4} | Pred: {outcome.prediction} (0=Real, 1=Fake) | "
        f"Prob: {outcome.fake_probability:.4f}"
    )


def _summary(run: Run) -> Iterator[str]:
    """Yields the lines below the research script's own section."""
    metrics, totals = run.metrics, run.totals
    if run.missing:
        yield f"INCOMPLETE: {run.not_asked}"
    if totals.is_untrained:
        yield UNTRAINED
    if run.is_trained_on:
        yield f"WARNING: {TRAINED_ON}."
    yield from _counts(metrics)
    yield from _accuracy(metrics)
    yield from _ranking(metrics)
    yield from video_figures(metrics)
    yield from video_section(metrics, run.videos())
    yield from folder_lines(metrics)
    yield from _confusion(metrics)
    yield from _comparisons(run)
    yield from _perturbed(metrics, run.perturbed)
    yield from _decisions(run)
    yield from _stability(run)
    yield from ("", "RUN")
    yield from _detector(totals)
    yield from _service(metrics, totals)


def _counts(metrics: Metrics) -> Iterator[str]:
    yield f"Images judged: {metrics.images} ({metrics.real} real, {metrics.fake} fake)"
    if metrics.why is not None:
        yield metrics.why
    yield f"Images without a true label, left out of the figures: {metrics.unlabelled}"
    kinds = ", ".join(f"{kind} {count}" for kind, count in metrics.failed.items())
    total = sum(metrics.failed.values())
    yield f"Failed images: {total}" + (f" ({kinds})" if kinds else "")
    if metrics.faceless:
        yield f"Frames without a face, left out: {metrics.faceless}"


def _accuracy(metrics: Metrics) -> Iterator[str]:
    if metrics.accuracy is not None:
        yield f"Accuracy at the detector's threshold: {metrics.accuracy:.4f}"
    if metrics.balanced_accuracy is not None:
        yield f"Balanced accuracy: {metrics.balanced_accuracy:.4f}"


def _ranking(metrics: Metrics) -> Iterator[str]:
    yield from _interval("AUC", metrics.auc_interval)
    yield from _interval("PR-AUC", metrics.pr_auc_interval)
    figures = {
        "Equal error rate (EER), interpolated": metrics.eer,
        "Equal error rate (EER), nearest point of the ROC as in DeepfakeBench": metrics.eer_nearest,
        "TPR at 1% FPR": metrics.tpr_at_1_fpr,
        "TPR at 0.1% FPR": metrics.tpr_at_01_fpr,
        "Expected calibration error (15 bins)": metrics.ece,
    }
    yield from (f"{name}: {value:.4f}" for name, value in figures.items() if value is not None)


def _interval(name: str, interval: Interval | None) -> Iterator[str]:
    if interval is not None:
        yield f"{name}, {INTERVAL}: {interval[0]:.4f} to {interval[1]:.4f}"


def confusion_lines(metrics: Metrics) -> Iterator[str]:
    """Yields what a threshold that was asked for calls the images of each label."""
    if (one := metrics.confusion) is None:
        return
    yield f"At a threshold of {one.threshold:g}:"
    yield f"  {'True':<6} {'REAL':>8} {'FAKE':>8}"
    yield f"  {'real':<6} {one.real_as_real:>8} {one.real_as_fake:>8}"
    yield f"  {'fake':<6} {one.fake_as_real:>8} {one.fake_as_fake:>8}"
    if shares := ", ".join(f"{name} {share:.4f}" for name, share in one.shares):
        yield f"  {shares}"


def _confusion(metrics: Metrics) -> Iterator[str]:
    if metrics.confusion is not None:
        yield from ("", "CONFUSION MATRIX", *confusion_lines(metrics))


def _comparisons(run: Run) -> Iterator[str]:
    if run.comparisons:
        yield from ("", "COMPARISONS")
    for comparison in run.comparisons:
        yield from (f"  {line}" for line in comparison_lines(comparison))


def _perturbed(metrics: Metrics, runs: Sequence[PerturbedRun]) -> Iterator[str]:
    if not runs:
        return
    named = [("none", metrics), *((str(run.perturbation), run.metrics) for run in runs)]
    width = max(len("Perturbation"), *(len(name) for name, _ in named))
    yield from ("", "PERTURBATIONS")
    yield (
        f"  {'Perturbation':<{width}} {'Images':>8} {'Failed':>8} {'AUC':>8} {'95% interval':>18} "
        f"{'PR-AUC':>8} {'Accuracy':>9} {'Held':>8}"
    )
    held = [None, *(run.held for run in runs)]
    for (name, one), same in zip(named, held, strict=True):
        interval = "-" if one.auc_interval is None else "{:.4f} to {:.4f}".format(*one.auc_interval)
        yield (
            f"  {name:<{width}} {one.images:>8} {sum(one.failed.values()):>8} "
            f"{_figure(one.auc):>8} {interval:>18} {_figure(one.pr_auc):>8} "
            f"{_figure(one.accuracy):>9} {_figure(same):>8}"
        )
    yield "  Held: share of the images that are called the same as without it."


def decision_lines(run: Run) -> Iterator[str]:
    """Yields how many images of each label are called what, and which share is unstable."""
    for one in run.metrics.decisions:
        unsure = f", {one.unsure / one.images:.2%} UNSURE" if one.unsure else ""
        yield (
            f"Decided on {one.images} {one.label} images: {one.fake / one.images:.2%} FAKE"
            f"{unsure}, {one.real / one.images:.2%} REAL"
        )
    if (stability := run.metrics.stability) is not None:
        yield (
            f"Unstable under small changes: {stability.share:.2%} ({stability.unstable} of "
            f"{stability.images} images)"
        )


def _decisions(run: Run) -> Iterator[str]:
    if not run.metrics.decisions:
        return
    rate, images = run.totals.levels["false_alarms"], run.totals.levels["calibrated_by"]
    yield from ("", "DECISIONS")
    if rate is not None:
        yield f"  FAKE is said of at most {100 * rate:g} % of real images like the {images} used."
    yield f"  {'True':<10} {'Images':>8} {'FAKE':>8} {'UNSURE':>8} {'REAL':>8}"
    for one in run.metrics.decisions:
        yield f"  {one.label:<10} {one.images:>8} {one.fake:>8} {one.unsure:>8} {one.real:>8}"
    for outcome in run.outcomes():
        if outcome.decision is not None:
            what = f"Decision: {outcome.decision:>6} | {outcome.rarity}"
            yield _line(outcome, run.images, what)


def _stability(run: Run) -> Iterator[str]:
    stability = run.metrics.stability
    if stability is None:
        return
    yield from ("", "STABILITY")
    yield f"  {stability.unstable} of {stability.images} images are called otherwise when changed:"
    for outcome in run.outcomes():
        if outcome.unstable:
            what = f"{outcome.called} | Prob: {outcome.lowest:.4f} to {outcome.highest:.4f}"
            yield _line(outcome, run.images, what)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _detector(totals: Totals) -> Iterator[str]:
    yield f"Model: {totals.model}"
    if totals.detector is not None:
        known = (f"{key} {value}" for key, value in totals.card.items() if value is not None)
        yield f"Detector: {', '.join(known)}"
    if totals.threshold is not None:
        yield f"FAKE above: {totals.threshold:g}"
    if totals.levels["held_out_auc"] is not None:
        auc, images = totals.levels["held_out_auc"], totals.levels["held_out_images"]
        yield f"Head: AUC {auc:.4f} on {images} images held out from its training"
    if totals.server is not None:
        yield f"Server: {totals.server}"
    yield f"Command: {totals.command}"


def _service(metrics: Metrics, totals: Totals) -> Iterator[str]:
    if totals.seconds_wall is None:
        return
    yield f"Time: {totals.seconds_wall:.1f} s, {totals.images_per_second:.1f} images a second"
    if metrics.latency is not None:
        p50, p95, p99 = metrics.latency.p50, metrics.latency.p95, metrics.latency.p99
        yield f"Latency of a request: p50 {p50:.3f} s, p95 {p95:.3f} s, p99 {p99:.3f} s"
    yield f"Repeated requests: {totals.retries}"
