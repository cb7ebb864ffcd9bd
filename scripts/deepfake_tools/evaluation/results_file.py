"""A run in, the research script's results file out, with figures of our own below its section."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from deepfake_tools.evaluation.figures import Metrics
from deepfake_tools.evaluation.outcomes import Outcome, Totals
from deepfake_tools.evaluation.perturbations import PerturbedRun
from deepfake_tools.evaluation.summary import summary
from deepfake_tools.files import replacing

TITLE = "Deepfake Detection Results (HuggingFace Model)"
RULE = "=" * 80
LABELS = {0: "REAL", 1: "FAKE", None: "N/A"}
NAMES_NEEDED = "- Images with 'real' or 'fake' in directory names"
SAMPLE_NAMES = 5


@dataclass(frozen=True)
class Run:
    """A run over images, finished or not.

    Attributes:
        images: How many there are to ask about.
        outcomes: Gives what became of those that were asked, in order; it can be called again.
        metrics: The figures about them.
        totals: What holds for the run as a whole.
        missing: How many questions were not asked, because the run ended before.
        perturbed: The figures under each perturbation, in the order of --perturb.
    """

    images: int
    outcomes: Callable[[], Iterable[Outcome]]
    metrics: Metrics
    totals: Totals
    missing: int = 0
    perturbed: Sequence[PerturbedRun] = ()

    @property
    def is_complete(self) -> bool:
        """Whether every image was asked about."""
        return self.missing == 0

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
    yield from summary(run.metrics, run.totals, run.missing, run.perturbed)
    if run.metrics.failed:
        yield from ("", f"FAILED IMAGES: {sum(run.metrics.failed.values())}")
        for outcome in run.outcomes():
            if outcome.error is not None:
                yield _line(outcome, run.images, f"Failed: {outcome.message}")


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
    return _one_line(Path(outcome.path).name)


def _line(outcome: Outcome, images: int, what: str) -> str:
    name = f"{_file_name(outcome):>30}"
    return f"[{outcome.index + 1}/{images}] {name} | {what} | Path: {_one_line(outcome.path)}"


def _prediction(outcome: Outcome) -> str:
    return (
        f"True: {LABELS[outcome.label]:>4} | Pred: {outcome.prediction} (0=Real, 1=Fake) | "
        f"Prob: {outcome.fake_probability:.4f}"
    )


def _one_line(name: str) -> str:
    """Keeps a file name with a line break in it from breaking the file's lines."""
    return "?".join(name.splitlines())
