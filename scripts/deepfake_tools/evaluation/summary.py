"""A run's figures in, the lines that stand below the research script's own section out."""

from collections.abc import Iterator, Sequence

from deepfake_tools.evaluation.figures import (
    CONFIDENCE,
    RESAMPLES,
    FolderMetrics,
    Interval,
    Metrics,
)
from deepfake_tools.evaluation.outcomes import Totals
from deepfake_tools.evaluation.perturbations import PerturbedRun

INTERVAL = f"{CONFIDENCE:.0%} interval (stratified bootstrap, {RESAMPLES} resamples)"
VIDEOS = (
    "  A video is a folder, by its full path, and its score the mean of its frames. DeepfakeBench "
    "goes by\n  the folder's own name, and so makes one video of real/000 and fake/000."
)
FOLDERS = (
    "  AUC: the folder's fake images against all real ones. Accuracy: at the detector's threshold."
)
UNTRAINED = "The detector's head is untrained: these figures are chance, not evidence."


def summary(
    metrics: Metrics, totals: Totals, missing: int, perturbed: Sequence[PerturbedRun]
) -> Iterator[str]:
    """Yields the lines.

    Args:
        metrics: The figures.
        totals: What holds for the run as a whole.
        missing: How many questions were not asked, because the run ended before.
        perturbed: The figures under each perturbation.
    """
    if missing:
        yield f"INCOMPLETE: {missing} images were not asked; the same command with --resume goes on"
    if totals.detector.get("head") == "untrained":
        yield UNTRAINED
    yield from _counts(metrics)
    yield from _accuracy(metrics)
    yield from _ranking(metrics)
    yield from _videos(metrics)
    yield from _folders(metrics)
    yield from _perturbed(metrics, perturbed)
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


def _videos(metrics: Metrics) -> Iterator[str]:
    if metrics.video_auc is not None:
        yield f"Video-level AUC ({metrics.videos} videos): {metrics.video_auc:.4f}"
        yield VIDEOS


def _folders(metrics: Metrics) -> Iterator[str]:
    if len(metrics.folders) < 2:
        return
    width = max(len("Folder"), *(len(_name(folder)) for folder in metrics.folders))
    yield from ("", "FOLDERS")
    yield FOLDERS
    yield (
        f"  {'Folder':<{width}} {'Images':>8} {'Real':>8} {'Fake':>8} {'AUC':>8} {'Accuracy':>9} "
        f"{'Mean prob':>10}"
    )
    for folder in metrics.folders:
        yield (
            f"  {_name(folder):<{width}} {folder.images:>8} {folder.real:>8} {folder.fake:>8} "
            f"{_figure(folder.auc):>8} {_figure(folder.accuracy):>9} "
            f"{folder.mean_probability:>10.4f}"
        )


def _perturbed(metrics: Metrics, runs: Sequence[PerturbedRun]) -> Iterator[str]:
    if not runs:
        return
    named = [("none", metrics), *((str(run.perturbation), run.metrics) for run in runs)]
    width = max(len("Perturbation"), *(len(name) for name, _ in named))
    yield from ("", "PERTURBATIONS")
    yield (
        f"  {'Perturbation':<{width}} {'Images':>8} {'Failed':>8} {'AUC':>8} {'95% interval':>18} "
        f"{'PR-AUC':>8} {'Accuracy':>9}"
    )
    for name, one in named:
        interval = "-" if one.auc_interval is None else "{:.4f} to {:.4f}".format(*one.auc_interval)
        yield (
            f"  {name:<{width}} {one.images:>8} {sum(one.failed.values()):>8} "
            f"{_figure(one.auc):>8} {interval:>18} {_figure(one.pr_auc):>8} "
            f"{_figure(one.accuracy):>9}"
        )


def _name(folder: FolderMetrics) -> str:
    return "?".join(folder.folder.splitlines()) or "."


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _detector(totals: Totals) -> Iterator[str]:
    yield f"Model: {totals.model}"
    if totals.detector:
        known = {key: value for key, value in totals.detector.items() if value is not None}
        yield "Detector: " + ", ".join(f"{key} {value}" for key, value in known.items())
    if totals.threshold is not None:
        yield f"FAKE above: {totals.threshold:g}"
    yield f"Server: {totals.server}"
    yield f"Command: {totals.command}"


def _service(metrics: Metrics, totals: Totals) -> Iterator[str]:
    yield f"Time: {totals.seconds_wall:.1f} s, {totals.images_per_second:.1f} images a second"
    if metrics.latency is not None:
        p50, p95, p99 = metrics.latency.p50, metrics.latency.p95, metrics.latency.p99
        yield f"Latency of a request: p50 {p50:.3f} s, p95 {p95:.3f} s, p99 {p99:.3f} s"
    yield f"Repeated requests: {totals.retries}"
