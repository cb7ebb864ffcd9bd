"""What the terminal says of a run: its figures in a few lines, and what to know of them."""

from collections.abc import Iterator
from pathlib import Path

from deepfake_tools.evaluation.comparison_lines import comparison_lines
from deepfake_tools.evaluation.folder_lines import macro_line
from deepfake_tools.evaluation.results_file import (
    TRAINED_ON,
    Run,
    confusion_lines,
    decision_lines,
    headline,
)
from deepfake_tools.evaluation.video_lines import video_figures


def figure_lines(run: Run, output: Path | None) -> Iterator[str]:
    """Yields the counts, the figures, and where the results were written.

    Args:
        run: The run, measured.
        output: The results file; None where none was written.
    """
    metrics, rate = run.metrics, run.totals.images_per_second
    what = "images" if metrics.video_score is None else "images and frames"
    yield (
        f"{metrics.images} {what} ({metrics.real} real, {metrics.fake} fake, "
        f"{metrics.unlabelled} without a label), {sum(metrics.failed.values())} failed"
        + ("" if rate is None else f", {rate:.1f} images a second")
    )
    yield from headline(metrics)
    if metrics.video_score is not None:
        yield from video_figures(metrics)
    yield from macro_line(metrics)
    yield from decision_lines(run)
    yield from confusion_lines(metrics)
    for comparison in run.comparisons:
        yield from comparison_lines(comparison)
    if output is not None:
        yield f"Results written to {output}"


def warning_lines(run: Run) -> Iterator[str]:
    """Yields why the figures may not mean what they seem to."""
    if run.totals.is_untrained:
        yield "this detector's head is untrained: its predictions are chance, not evidence"
    if run.is_trained_on:
        yield TRAINED_ON
    if run.comparisons and run.metrics.video_score is not None:
        yield (
            "frames of one video are not independent: intervals and p-values of the comparison are "
            "smaller than they should be"
        )
