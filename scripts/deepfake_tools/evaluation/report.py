"""The HTML report (--report): one page that shows and explains a run; needs `evaluate`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from deepfake_tools.evaluation import sections
from deepfake_tools.evaluation.figures import RESAMPLES, Metrics
from deepfake_tools.evaluation.outcomes import Totals
from deepfake_tools.evaluation.page import Html, element, join, page, section, table
from deepfake_tools.evaluation.perturbations import PerturbedRun
from deepfake_tools.files import replacing

MAX_FAILURES = 20

DEFINITIONS = (
    ("AUC", "Area under the ROC curve: the chance that a fake image scores above a real one."),
    ("PR-AUC", "Average precision, with fake as the positive class."),
    (
        "Intervals",
        f"95 %, from {RESAMPLES} bootstrap resamples of the images, real and fake drawn apart, "
        "with a fixed seed. They take images for independent; frames of one video are not, and "
        "make them too narrow.",
    ),
    (
        "EER",
        "Equal error rate: where FPR = 1 \N{MINUS SIGN} TPR on the ROC, interpolated between its "
        "points. DeepfakeBench takes the FPR of the point that is nearest to it.",
    ),
    (
        "TPR at FPR",
        "The largest share of fakes found by a threshold that calls at most this share of the "
        "real images fake; with fewer real images than would make one, none at all.",
    ),
    (
        "ECE",
        "Expected calibration error (Guo et al. 2017), of the probability of fake in 15 equal "
        "bins.",
    ),
    (
        "Video AUC",
        "AUC of each video's mean score, a video being a folder by its full path. DeepfakeBench "
        "goes by the folder's base name, which merges real/000 with fake/000.",
    ),
)


@dataclass(frozen=True)
class Report:
    """What a report tells.

    Attributes:
        metrics: Of the images as they are.
        totals: Of the run.
        perturbed: One for each perturbation, in the order to show.
        written: When.
    """

    metrics: Metrics
    totals: Totals
    perturbed: Sequence[PerturbedRun] = ()
    written: datetime = field(default_factory=lambda: datetime.now(UTC))


def write_report(path: Path, report: Report) -> None:
    """Writes the page whole, or not at all.

    Args:
        path: The file to write; one that is there is replaced.
        report: What it tells. The files of `metrics.mistakes` are read for their thumbnails.

    Raises:
        OSError: The file cannot be written.
    """
    with replacing(path) as file:
        file.write(format_report(report))


def format_report(report: Report) -> str:
    """Returns the page."""
    metrics, totals = report.metrics, report.totals
    return page(
        f"Deepfake detection report: {totals.model}",
        _summary(report),
        _warning(totals),
        sections.headline(metrics),
        sections.curves(metrics, totals.threshold),
        sections.robustness(metrics, report.perturbed),
        sections.folders(metrics.folders),
        sections.mistakes(metrics.mistakes),
        section("Run", _facts(_speed(metrics, totals)), _failures(metrics)),
        section("Detector", _facts(_card(totals))),
        section("Command", element("pre", totals.command)),
        section("Definitions", _facts(DEFINITIONS)),
    )


def _summary(report: Report) -> Html:
    metrics = report.metrics
    counts = [f"{metrics.real:,} real", f"{metrics.fake:,} fake"]
    if metrics.unlabelled:
        counts.append(f"{metrics.unlabelled:,} without a label, left out of the figures")
    if metrics.failed:
        counts.append(f"{sum(metrics.failed.values()):,} more failed")
    written = element(
        "time",
        f"{report.written:%Y-%m-%d %H:%M} {report.written.tzname() or ''}",
        datetime=report.written.isoformat(timespec="seconds"),
    )
    judged = f"{metrics.images:,} images judged: {', '.join(counts)}. "
    return element("p", judged, written, class_="soft")


def _warning(totals: Totals) -> Html:
    if totals.detector.get("head") != "untrained":
        return Html()
    return element(
        "p",
        element("strong", "This detector's head is untrained: "),
        "its predictions are chance, and no figure below says anything about a real detector.",
        class_="note",
    )


def _speed(metrics: Metrics, totals: Totals) -> list[tuple[str, str]]:
    facts = [
        ("Rate", f"{totals.images_per_second:.1f} images a second"),
        ("Time", f"{totals.seconds_wall:,.1f} s"),
        ("Repeated requests", f"{totals.retries:,}"),
    ]
    latency = metrics.latency
    if latency is not None:
        times = (
            f"{name} {1000 * seconds:,.0f} ms"
            for name, seconds in (("p50", latency.p50), ("p95", latency.p95), ("p99", latency.p99))
        )
        facts.insert(1, ("Latency", ", ".join(times)))
    return facts


def _failures(metrics: Metrics) -> Html:
    if not metrics.failed:
        return Html()
    kinds = sorted(metrics.failed.items(), key=lambda kind: -kind[1])
    rows = [(kind, f"{images:,}") for kind, images in kinds[:MAX_FAILURES]]
    rest = sum(images for _, images in kinds[MAX_FAILURES:])
    if rest:
        rows.append(("other kinds", f"{rest:,}"))
    return table("Images that failed, by kind", ("Kind", "Images"), rows)


def _card(totals: Totals) -> list[tuple[str, str]]:
    threshold = "not known" if totals.threshold is None else f"{totals.threshold:g}"
    return [
        ("Asked for", totals.model),
        *((name, str(value or "none")) for name, value in totals.detector.items()),
        ("FAKE above", threshold),
        ("Server", totals.server),
    ]


def _facts(facts: Iterable[tuple[str, str]]) -> Html:
    pairs = (join(element("dt", name), element("dd", fact)) for name, fact in facts)
    return element("dl", *pairs, class_="facts")
