"""Outcomes in, one at a time; counts, scores and labels out, in a few bytes an image."""

import heapq
import os
from array import array
from collections import Counter
from dataclasses import dataclass

from deepfake_tools.evaluation.outcomes import Outcome
from deepfake_tools.evaluation.videos import Directory

BINS = 20
"""Equal bins of the probabilities' histogram over [0, 1]."""

UNLABELLED = -1
MISTAKES = 24


@dataclass(slots=True)
class FolderCounts:
    """The judged images of one folder.

    Attributes:
        images: All of them, labelled or not.
        real: Those labelled real.
        fake: Those labelled fake.
        right: Labelled ones whose prediction is their label.
        probability: Sum of `fake_probability` over all of them.
    """

    images: int = 0
    real: int = 0
    fake: int = 0
    right: int = 0
    probability: float = 0.0


class Sample:
    """What the figures need of a run; it holds no outcome but the most confident mistakes.

    Attributes:
        failed: How many images failed, by kind.
        right: Predictions that are the label, of real images and of fake ones.
        folders: By the outcomes' folder, in the order in which they came.
        directories: Labelled images by the full path of the directory that they lie in.
        scores: `score` of each judged image, by which they are ranked.
        probabilities: `fake_probability` of the same images.
        labels: Of the same images: 0 real, 1 fake, -1 not known.
        places: Of the same images: the position of their folder in `folders`.
        seconds: Of the same images: the latency of the request that they travelled in.
        histogram: Judged images by label (0, 1, -1) in `BINS` equal bins of their probability.
    """

    def __init__(self) -> None:
        self.failed: Counter[str] = Counter()
        self.right = [0, 0]
        self.folders: dict[str, FolderCounts] = {}
        self.directories: dict[str, Directory] = {}
        self.scores = array("d")
        self.probabilities = array("d")
        self.labels = array("b")
        self.places = array("l")
        self.seconds = array("d")
        self.histogram = {label: [0] * BINS for label in (0, 1, UNLABELLED)}
        self._places: dict[str, int] = {}
        self._mistakes: list[tuple[float, int, Outcome]] = []

    def add(self, outcome: Outcome) -> None:
        """Takes in one outcome."""
        probability, score = outcome.fake_probability, outcome.score
        if probability is None or score is None:
            self.failed[outcome.error or "unknown"] += 1
            return
        label = UNLABELLED if outcome.label is None else outcome.label
        self.scores.append(score)
        self.probabilities.append(probability)
        self.labels.append(label)
        self.seconds.append(outcome.seconds)
        self.places.append(self._places.setdefault(outcome.folder, len(self._places)))
        self.histogram[label][min(int(probability * BINS), BINS - 1)] += 1
        self._count(outcome, probability)
        if label != UNLABELLED:
            directory, name = os.path.split(outcome.path)
            self.directories.setdefault(directory, Directory()).add(name, label, probability, score)
            self._check(outcome, label, score)

    def count(self, label: int) -> int:
        """Returns how many judged images have this label."""
        return sum(self.histogram[label])

    @property
    def mistakes(self) -> tuple[Outcome, ...]:
        """The labelled images judged wrongly with most confidence, at most `MISTAKES`."""
        return tuple(outcome for *_, outcome in sorted(self._mistakes, reverse=True))

    def _count(self, outcome: Outcome, probability: float) -> None:
        counts = self.folders.setdefault(outcome.folder, FolderCounts())
        counts.images += 1
        counts.real += outcome.label == 0
        counts.fake += outcome.label == 1
        counts.right += outcome.label is not None and outcome.label == outcome.prediction
        counts.probability += probability

    def _check(self, outcome: Outcome, label: int, score: float) -> None:
        if outcome.prediction == label:
            self.right[label] += 1
            return
        # Of equally wrong ones the first in the run come first, so that runs can be compared.
        entry = (-score if label else score, -len(self.scores), outcome)
        if len(self._mistakes) < MISTAKES:
            heapq.heappush(self._mistakes, entry)
        else:
            heapq.heappushpop(self._mistakes, entry)
