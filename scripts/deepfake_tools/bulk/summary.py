"""What a person reads at the end of a run: the client's figures, over the data set's rows."""

from collections.abc import Iterator

from deepfake_tools.bulk.dataset import DataSet
from deepfake_tools.evaluation.metrics import measure
from deepfake_tools.evaluation.outcomes import Outcome
from deepfake_tools.evaluation.results_file import headline

TRUTH = {"REAL": 0, "FAKE": 1}


def outcomes(dataset: DataSet) -> Iterator[Outcome]:
    """Yields a data set's rows as the client's run has them."""
    for index, row in enumerate(dataset.rows()):
        label, truth = row["label"], row["true_label"]
        yield Outcome(
            index=index,
            path=str(row["path"]),
            label=None if truth is None else TRUTH[str(truth)],
            folder="",
            prediction=None if label is None else TRUTH[str(label)],
            fake_probability=row["fake_probability"],  # type: ignore[arg-type]
            seconds=0.0,
            error=row["error"],  # type: ignore[arg-type]
            margin=row["margin"],  # type: ignore[arg-type]
            decision=row["decision"],  # type: ignore[arg-type]
        )


def figures(dataset: DataSet) -> Iterator[str]:
    """Yields the lines that the client ends with: counts, AUC and PR-AUC or why there are none."""
    metrics = measure(outcomes(dataset))
    failed = sum(metrics.failed.values())
    kinds = ", ".join(f"{kind} {count}" for kind, count in metrics.failed.items())
    yield (
        f"{metrics.images} images ({metrics.real} real, {metrics.fake} fake, "
        f"{metrics.unlabelled} without a label), {failed} failed" + (f" ({kinds})" if kinds else "")
    )
    yield from headline(metrics)
