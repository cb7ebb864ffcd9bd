"""The results file's table of folders, which are generators where they hold fake images."""

from collections.abc import Iterator

from deepfake_tools.evaluation.figures import FolderMetrics, Interval, Metrics
from deepfake_tools.evaluation.video_lines import one_line_of

MACRO = "Macro average"
EXPLAINED = (
    "  AUC, TPR: the folder's fake images against all real ones. Accuracy: at the detector's "
    "threshold."
)
HEADER = (
    f"{'Images':>8} {'Real':>8} {'Fake':>8} {'AUC':>8} {'Accuracy':>9} {'Mean prob':>10} "
    f"{'AUC, 95% interval':>18} {'TPR@1%':>8} {'TPR@0.1%':>9}"
)


def folder_lines(metrics: Metrics) -> Iterator[str]:
    """Yields the table, where there are several folders, and the mean over the generators."""
    if len(metrics.folders) < 2:
        return
    names = [folder_name(folder) for folder in metrics.folders]
    width = max(len("Folder"), len(MACRO) if metrics.macro else 0, *map(len, names))
    yield from ("", "FOLDERS", EXPLAINED, f"  {'Folder':<{width}} {HEADER}")
    for name, folder in zip(names, metrics.folders, strict=True):
        yield (
            f"  {name:<{width}} {folder.images:>8} {folder.real:>8} {folder.fake:>8} "
            f"{_figure(folder.auc):>8} {_figure(folder.accuracy):>9} "
            f"{folder.mean_probability:>10.4f} {span(folder.auc_interval):>18} "
            f"{_figure(folder.tpr_at_1_fpr):>8} {_figure(folder.tpr_at_01_fpr):>9}"
        )
    if (macro := metrics.macro) is not None:
        yield (
            f"  {MACRO:<{width}} {'-':>8} {'-':>8} {'-':>8} {macro.auc:>8.4f} {'-':>9} {'-':>10} "
            f"{span(macro.auc_interval):>18} {macro.tpr_at_1_fpr:>8.4f} "
            f"{macro.tpr_at_01_fpr:>9.4f}"
        )


def macro_line(metrics: Metrics) -> Iterator[str]:
    """Yields the mean over the generators in a line, where there are several."""
    if (macro := metrics.macro) is not None:
        yield (
            f"Macro average over {macro.generators} folders of fake images: AUC {macro.auc:.4f} "
            f"(95% interval {span(macro.auc_interval)}), TPR at 1% FPR {macro.tpr_at_1_fpr:.4f}"
        )


def folder_name(folder: FolderMetrics) -> str:
    """Returns a folder's name in one line."""
    return one_line_of(folder.folder) or "."


def span(interval: Interval | None) -> str:
    """Returns an interval's ends."""
    return "-" if interval is None else "{:.4f} to {:.4f}".format(*interval)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
