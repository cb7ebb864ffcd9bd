"""The research script's results file: what became of each image in, one text file out."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepfake_tools.answers import Verdict
from deepfake_tools.failures import ServiceError

TITLE = "Deepfake Detection Results (HuggingFace Model)"
RULE = "=" * 80


@dataclass(frozen=True)
class Outcome:
    """What became of one image: a verdict, or a failure.

    Attributes:
        path: The image as it was named.
        result: The detector's answer, or why there is none.
    """

    path: Path
    result: Verdict | ServiceError


def write_results(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Writes the results file whole, or not at all.

    Args:
        path: The file to write; one that is there is replaced.
        outcomes: In the order in which the images were given.

    Raises:
        OSError: The file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        # A file name that is not UTF-8 keeps its bytes.
        partial.write_text(format_results(outcomes), encoding="utf-8", errors="surrogateescape")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def format_results(outcomes: Sequence[Outcome]) -> str:
    """Returns the results file's text.

    "Prob" is the probability of FAKE whatever the label, since the AUC is computed from it. An
    image without a verdict keeps its number [i/n], but is listed apart from the predictions.
    """
    lines = [TITLE, RULE]
    failures = []
    for number, outcome in enumerate(outcomes, start=1):
        place = f"[{number}/{len(outcomes)}] {_one_line(outcome.path.name):>30}"
        path = f"Path: {_one_line(str(outcome.path))}"
        if isinstance(outcome.result, ServiceError):
            failures.append(f"{place} | Failed: {outcome.result} | {path}")
        else:
            lines.append(f"{place} | {_prediction(outcome.result)} | {path}")
    predicted = len(outcomes) - len(failures)
    lines += ["", RULE, "PERFORMANCE METRICS", RULE, f"Total images processed: {predicted}"]
    lines += ["Real images: 0", "Fake images: 0", _why_no_auc(predicted), RULE]
    if failures:
        lines += ["", f"FAILED IMAGES: {len(failures)}", *failures]
    return "\n".join(lines) + "\n"


def _prediction(verdict: Verdict) -> str:
    return (
        f"True: {'N/A':>4} | Pred: {verdict.prediction} (0=Real, 1=Fake) | "
        f"Prob: {verdict.fake_probability:.4f}"
    )


def _why_no_auc(predicted: int) -> str:
    if predicted == 1:
        return "AUC and PR-AUC do not apply to one image: they compare the scores of two classes."
    return "AUC and PR-AUC do not apply: no image has a true label, real or fake, to compare with."


def _one_line(name: str) -> str:
    """Keeps a file name with a line break in it from breaking the file's lines."""
    return "?".join(name.splitlines())
