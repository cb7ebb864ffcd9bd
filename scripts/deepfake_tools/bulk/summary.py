"""What a person reads at the end of a run: the client's figures, over the data set's rows."""

from collections.abc import Iterator

from deepfake_tools.evaluation.metrics import measure
from deepfake_tools.evaluation.parquet_runs import stored_outcomes
from deepfake_tools.evaluation.results_file import headline
from deepfake_tools.storage import Location


def figures(folder: Location) -> Iterator[str]:
    """Yields the lines that the client ends with: counts, AUC and PR-AUC or why there are none.

    Args:
        folder: Of a data set, with a part in it at least.

    Raises:
        SavedRunError: It is damaged.
    """
    metrics = measure(stored_outcomes(folder))
    failed = sum(metrics.failed.values())
    kinds = ", ".join(f"{kind} {count}" for kind, count in metrics.failed.items())
    yield (
        f"{metrics.images} images ({metrics.real} real, {metrics.fake} fake, "
        f"{metrics.unlabelled} without a label), {failed} failed" + (f" ({kinds})" if kinds else "")
    )
    yield from headline(metrics)
