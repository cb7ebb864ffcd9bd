"""Compares two saved runs on the images that both have judged; needs the extra `evaluate`."""

import itertools
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deepfake_tools.errors import one_line
from deepfake_tools.evaluation.figures import Difference, PairedComparison
from deepfake_tools.evaluation.outcomes import LABELS, Outcome
from deepfake_tools.evaluation.paired_tests import bootstrap_differences, delong, mcnemar
from deepfake_tools.evaluation.saved_runs import SavedRun, SavedRunError
from deepfake_tools.labels import listed_path


@dataclass
class _Side:
    """What one run says of the images that count."""

    scores: "array[float]" = field(default_factory=lambda: array("d"))
    right: "array[int]" = field(default_factory=lambda: array("b"))

    def add(self, outcome: Outcome, label: int) -> None:
        """Takes in a judged image."""
        assert outcome.score is not None  # the only caller looked
        self.scores.append(outcome.score)
        self.right.append(outcome.prediction == label)


@dataclass
class _Pairs:
    """Two runs' images, joined.

    Attributes:
        first: What the first run says.
        second: What the second says of the same images.
        labels: Of the same images.
        only_first: How many the first run alone has.
        only_second: How many the second alone has.
        unjudged: How many both have, of which one has no verdict on.
        unlabelled: How many both have judged, and whose label neither knows.
        common: How many both have.
    """

    first: _Side = field(default_factory=_Side)
    second: _Side = field(default_factory=_Side)
    labels: "array[int]" = field(default_factory=lambda: array("b"))
    only_first: int = 0
    only_second: int = 0
    unjudged: int = 0
    unlabelled: int = 0
    common: int = 0


def compare(first: SavedRun, second: SavedRun) -> PairedComparison:
    """Compares two detectors, or versions of one, on the same images.

    Images are joined by their paths, relative ones taken from the current folder; those that one
    run lacks, or has no verdict on, are counted and left out.

    Args:
        first: One run.
        second: The other. Differences are of the second less the first.

    Raises:
        SavedRunError: They have no labelled image in common, or disagree about a label.
    """
    pairs = _join(first, second)
    labels = np.frombuffer(pairs.labels, np.int8)
    scores = np.frombuffer(pairs.first.scores), np.frombuffer(pairs.second.scores)
    right = np.frombuffer(pairs.first.right, np.bool_), np.frombuffer(pairs.second.right, np.bool_)
    intervals = bootstrap_differences(labels, scores, right)
    exchange = mcnemar(*right)
    real, fake = int((labels == 0).sum()), int((labels == 1).sum())
    areas = None
    if real and fake:
        found = delong(labels, *scores)
        areas = Difference(found.first, found.second, intervals.auc, found.p)
    accuracy = Difference(
        float(right[0].mean()), float(right[1].mean()), intervals.accuracy, exchange.p
    )
    return PairedComparison(
        first=first.name,
        second=second.name,
        real=real,
        fake=fake,
        only_first=pairs.only_first,
        only_second=pairs.only_second,
        unjudged=pairs.unjudged,
        unlabelled=pairs.unlabelled,
        auc=areas,
        accuracy=accuracy,
        first_alone=exchange.first_alone,
        second_alone=exchange.second_alone,
        exact=exchange.exact,
    )


def _join(first: SavedRun, second: SavedRun) -> _Pairs:
    """Joins two runs by the paths of their images.

    Raises:
        SavedRunError: Nothing is left to compare, or a label is two.
    """
    pairs = _Pairs()
    waiting = dict(_by_path(first.outcomes()))
    for path, other in _by_path(second.outcomes()):
        one = waiting.pop(path, None)
        if one is None:
            pairs.only_second += 1
            continue
        pairs.common += 1
        label = _agreed(one, other, first, second)
        if one.score is None or other.score is None:
            pairs.unjudged += 1
        elif label is None:
            pairs.unlabelled += 1
        else:
            pairs.labels.append(label)
            pairs.first.add(one, label)
            pairs.second.add(other, label)
    pairs.only_first = len(waiting)
    if not pairs.common:
        raise SavedRunError(
            f"{first.name} and {second.name} have no image in common by path: the one has "
            f"{_example(first)}, the other {_example(second)}"
        )
    if not pairs.labels:
        raise SavedRunError(
            f"of the {pairs.common} images that {first.name} and {second.name} have in common "
            "none has a true label and two verdicts: give the labels by --labels FILE.csv"
        )
    return pairs


def _by_path(outcomes: Iterable[Outcome]) -> Iterator[tuple[str, Outcome]]:
    here = Path.cwd()
    return ((str(listed_path(outcome.path, here)), outcome) for outcome in outcomes)


def _agreed(one: Outcome, other: Outcome, first: SavedRun, second: SavedRun) -> int | None:
    """Returns an image's label, which one run may not know.

    Raises:
        SavedRunError: They know two.
    """
    if one.label is None or other.label is None or one.label == other.label:
        return other.label if one.label is None else one.label
    raise SavedRunError(
        f"{one_line(one.path)} is {LABELS[one.label]} in {first.name} and {LABELS[other.label]} "
        f"in {second.name}: give the labels of both by --labels FILE.csv"
    )


def _example(run: SavedRun) -> str:
    return next((one_line(o.path) for o in itertools.islice(run.outcomes(), 1)), "none")
