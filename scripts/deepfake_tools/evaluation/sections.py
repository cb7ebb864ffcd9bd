"""The sections of the HTML report: figures, curves, folders, mistakes; needs `evaluate`."""

import base64
from collections.abc import Sequence
from pathlib import Path

from clip_deepfake import errors
from clip_deepfake.images import decode

from deepfake_tools.evaluation import plots
from deepfake_tools.evaluation.figures import FolderMetrics, Interval, Metrics
from deepfake_tools.evaluation.outcomes import Outcome
from deepfake_tools.evaluation.page import Html, element, join, section, table
from deepfake_tools.evaluation.perturbations import (
    KINDS,
    MAX_PIXELS,
    PerturbedRun,
    encode,
    smaller,
)

MAX_FOLDERS = 200
NONE = "\N{EN DASH}"

THUMBNAIL_SIDE = 220
"""The longer side in pixels: sharp at half of it on a phone."""

THUMBNAIL_QUALITY = 80


def headline(metrics: Metrics) -> Html:
    """Returns the figures that everybody asks for, or why they do not apply."""
    remark = "at the card's threshold"
    accuracies = [
        ("Accuracy", metrics.accuracy, remark),
        ("Balanced accuracy", metrics.balanced_accuracy, remark),
    ]
    if metrics.why is not None:
        return join(element("p", metrics.why, class_="note"), _tiles(accuracies))
    return _tiles(
        [
            ("AUC", metrics.auc, interval(metrics.auc_interval)),
            ("PR-AUC", metrics.pr_auc, interval(metrics.pr_auc_interval)),
            ("Video AUC", metrics.video_auc, f"{metrics.videos:,} videos"),
            ("Equal error rate", metrics.eer, "interpolated"),
            ("Equal error rate", metrics.eer_nearest, "DeepfakeBench's nearest point"),
            *accuracies,
            ("TPR at 1 % FPR", metrics.tpr_at_1_fpr, "share of fakes found"),
            ("TPR at 0.1 % FPR", metrics.tpr_at_01_fpr, "share of fakes found"),
            ("Calibration error", metrics.ece, "lower is better"),
        ]
    )


def curves(metrics: Metrics, threshold: float | None) -> Html:
    """Returns the ROC and precision-recall curves, the scores and the reliability diagram."""
    if not metrics.images:
        return Html()
    drawn = metrics.curves
    scores = (
        plots.scores(drawn.histogram, threshold),
        "Scores by true label; the bars of each class add up to 1.",
    )
    if metrics.why is not None:
        return section("Scores", _plots([scores]))
    prevalence = metrics.fake / (metrics.real + metrics.fake)
    return section(
        "Curves",
        _plots(
            [
                (plots.roc(drawn.roc), "ROC curve."),
                (plots.precision_recall(drawn.pr, prevalence), "Precision-recall curve."),
                scores,
                (
                    plots.calibration(drawn.reliability),
                    "Reliability: above the line fakes are more frequent than the score says, "
                    "below it less. The larger a dot, the more images.",
                ),
            ]
        ),
    )


def robustness(plain: Metrics, runs: Sequence[PerturbedRun]) -> Html:
    """Returns what became of the figures under each perturbation; nothing without any."""
    if not runs:
        return Html()
    rows = [_robustness_row("none", plain, plain)]
    rows += [_robustness_row(str(run.perturbation), run.metrics, plain) for run in runs]
    header = ("Perturbation", "AUC", "Change", "95 % interval", "PR-AUC", "Accuracy", "Failed")
    kinds = dict.fromkeys(run.perturbation.kind for run in runs)
    units = "; ".join(f"{kind}: {KINDS[kind].unit}" for kind in kinds)
    return section(
        "Robustness",
        table("The same images, made worse before they were sent", header, rows),
        element("p", f"Strengths are, for {units}.", class_="soft"),
        _plots([(drawing, "") for drawing in plots.robustness(plain, runs)]),
    )


def folders(measured: Sequence[FolderMetrics]) -> Html:
    """Returns the table of folders; nothing for a single one, which would repeat the page."""
    if len(measured) < 2:
        return Html()
    rows = [
        (
            folder.folder or "(the folder itself)",
            number(folder.auc),
            number(folder.accuracy),
            number(folder.mean_probability),
            f"{folder.images:,}",
            f"{folder.real:,}",
            f"{folder.fake:,}",
        )
        for folder in measured[:MAX_FOLDERS]
    ]
    caption = "Each folder's fake images against all real images"
    if len(measured) > MAX_FOLDERS:
        caption += f"; the first {MAX_FOLDERS} of {len(measured):,}, the results file has all"
    header = ("Folder", "AUC", "Accuracy", "Mean score", "Images", "Real", "Fake")
    return section("Folders", table(caption, header, rows))


def mistakes(outcomes: Sequence[Outcome]) -> Html:
    """Returns the most confident mistakes as thumbnails; nothing where there are none."""
    if not outcomes:
        return Html()
    return section(
        "Most confident mistakes",
        element("div", *(_mistake(outcome) for outcome in outcomes), class_="mistakes"),
    )


def number(value: float | None) -> str:
    """Returns a figure as the results file has it, or a dash."""
    return NONE if value is None else f"{value:.4f}"


def interval(bounds: Interval | None) -> str:
    """Returns an interval, or a dash."""
    return NONE if bounds is None else f"{bounds[0]:.4f} to {bounds[1]:.4f}"


def _tiles(figures: Sequence[tuple[str, float | None, str]]) -> Html:
    return element(
        "dl",
        *(
            element(
                "div",
                element("dt", name),
                element("dd", number(value)),
                element("dd", remark),
                class_="main" if "AUC" in name else None,
            )
            for name, value, remark in figures
            if value is not None
        ),
        class_="tiles",
    )


def _plots(drawings: Sequence[tuple[Html, str]]) -> Html:
    return element(
        "div",
        *(
            element("figure", drawing, element("figcaption", caption) if caption else "")
            for drawing, caption in drawings
        ),
        class_="plots",
    )


def _robustness_row(name: str, metrics: Metrics, plain: Metrics) -> tuple[str, ...]:
    change = NONE
    if metrics is not plain and metrics.auc is not None and plain.auc is not None:
        change = f"{metrics.auc - plain.auc:+.4f}".replace("-", "\N{MINUS SIGN}")
    return (
        name,
        number(metrics.auc),
        change,
        interval(metrics.auc_interval),
        number(metrics.pr_auc),
        number(metrics.accuracy),
        f"{sum(metrics.failed.values()):,}",
    )


def _mistake(outcome: Outcome) -> Html:
    picture = _thumbnail(Path(outcome.path))
    truth = "fake" if outcome.label else "real"
    return element(
        "figure",
        element("div", "cannot be read any more", class_="gone")
        if picture is None
        else element("img", src=picture, alt=f"{truth} image {outcome.path}"),
        element(
            "figcaption",
            element("strong", f"{truth}, scored {number(outcome.fake_probability)}"),
            element("bdi", outcome.path),
        ),
    )


def _thumbnail(path: Path) -> str | None:
    """Returns a small JPEG of the image as a data URI, or None where it cannot be read any more."""
    try:
        image = decode(path.read_bytes(), MAX_PIXELS, "opencv-5")
    except (OSError, ValueError, errors.ImageError):
        return None
    small = smaller(image, min(THUMBNAIL_SIDE / max(image.shape[:2]), 1))
    encoded = encode(small, THUMBNAIL_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(encoded).decode()}"
