"""The figures as a table for a paper or a page (--table): Markdown or LaTeX, by the file's name."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from deepfake_tools.evaluation.comparison_lines import signed
from deepfake_tools.evaluation.figures import Difference, Interval, PairedComparison
from deepfake_tools.evaluation.folder_lines import MACRO, folder_name
from deepfake_tools.evaluation.results_file import Run
from deepfake_tools.files import replacing
from deepfake_tools.text_table import latex_table, markdown_cell, markdown_table

Rows = Sequence[Sequence[str]]

NONE = "-"
GENERATORS = ("Fake images", "Images", "AUC", "95 % interval", "TPR at 1 % FPR", "TPR at 0.1 % FPR")
COMPARED = (
    "Compared",
    "Images",
    "Figure",
    "First",
    "Second",
    "Difference",
    "95 % interval",
    "p",
)


def table_file(text: str) -> Path:
    """Reads where a table is to be written, as an argument's `type`."""
    path = Path(text)
    if path.suffix.lower() in WRITERS:
        return path
    raise argparse.ArgumentTypeError(
        f"{text!r} ends in neither .md (Markdown) nor .tex (LaTeX, a tabular)"
    )


def write_table(path: Path, run: Run) -> None:
    """Writes the figures by generator, and of the comparisons, where there are any.

    Args:
        path: Its ending says how.
        run: What to write.

    Raises:
        OSError: The file cannot be written.
    """
    write = WRITERS[path.suffix.lower()]
    tables = [list(generator_rows(run))]
    if run.comparisons:
        tables.append([COMPARED, *(row for one in run.comparisons for row in comparison_rows(one))])
    with replacing(path) as file:
        file.write("\n\n".join(write(rows) for rows in tables) + "\n")


def generator_rows(run: Run) -> Iterator[Sequence[str]]:
    """Yields a header, a row for each folder of fake images, their mean, and the run's own row."""
    metrics = run.metrics
    yield GENERATORS
    if len(metrics.folders) > 1:
        for folder in metrics.folders:
            if folder.fake:
                area = _area(folder.auc, folder.auc_interval)
                rates = map(_figure, (folder.tpr_at_1_fpr, folder.tpr_at_01_fpr))
                yield folder_name(folder), f"{folder.fake:,}", *area, *rates
    if (macro := metrics.macro) is not None:
        area = _area(macro.auc, macro.auc_interval)
        yield MACRO, NONE, *area, *map(_figure, (macro.tpr_at_1_fpr, macro.tpr_at_01_fpr))
    area = _area(metrics.auc, metrics.auc_interval)
    rates = map(_figure, (metrics.tpr_at_1_fpr, metrics.tpr_at_01_fpr))
    yield "All", f"{metrics.fake:,}", *area, *rates


def comparison_rows(comparison: PairedComparison) -> Iterator[Sequence[str]]:
    """Yields a row for each figure that two runs were compared by."""
    compared = (
        f"{comparison.second} against {comparison.first}",
        f"{comparison.real + comparison.fake:,}",
    )
    if comparison.auc is not None:
        yield *compared, "AUC", *_difference(comparison.auc)
    yield *compared, "Accuracy", *_difference(comparison.accuracy)


def _difference(figure: Difference) -> Iterator[str]:
    yield from map(_figure, (figure.first, figure.second))
    yield f"{figure.change:+.4f}"
    yield NONE if figure.interval is None else signed(figure.interval)
    yield NONE if figure.p is None else "< 0.0001" if figure.p < 0.0001 else f"{figure.p:.4f}"


def _area(auc: float | None, interval: Interval | None) -> tuple[str, str]:
    bounds = NONE if interval is None else "{:.4f} to {:.4f}".format(*interval)
    return _figure(auc), bounds


def _figure(value: float | None) -> str:
    return NONE if value is None else f"{value:.4f}"


def _markdown(rows: Rows) -> str:
    return markdown_table([[markdown_cell(cell) for cell in row] for row in rows])


WRITERS: dict[str, Callable[[Rows], str]] = {".md": _markdown, ".tex": latex_table}
"""What writes a table, by the file's ending."""
