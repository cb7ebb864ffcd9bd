"""What a person sees of a run while it goes on: lines in order, or the progress and failures."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from deepfake_tools.client.images import Collection, Image
from deepfake_tools.client.journal import Journal
from deepfake_tools.evaluation.outcomes import LABELS, Outcome
from deepfake_tools.evaluation.stability import merged
from deepfake_tools.evaluation.video_lines import lines
from deepfake_tools.evaluation.videos import VideoScore, VideoScoring, VideoVerdict, judge_video
from deepfake_tools.progress import Progress

SHOWN_ERRORS = 10


@dataclass
class Named:
    """An image, or a video's frames, that a person waits for.

    Attributes:
        images: Their positions in the run.
        left: How many have no outcome yet.
    """

    images: range
    left: int = 0


class Console:
    """What is printed while a run goes on.

    Images and videos that were named by themselves get their lines each, in their order. For others
    there is the progress, and the first few failures.

    Args:
        collection: The images of the run.
        journal: What was done before, and what is still to be done.
        how: How a video's score comes from its frames'.
        variants: How many times each image is asked about.
        together: Whether what comes of an image under all variants comes at once.
    """

    def __init__(
        self,
        collection: Collection,
        journal: Journal,
        how: VideoScore,
        variants: int,
        *,
        together: bool,
    ) -> None:
        self._journal, self._how = journal, how
        self._told = range(variants if together else 1)
        self._done, self._errors = journal.done, 0
        self._progress: Progress | None = None
        all_named = _find_named(collection.images) if collection.named else []
        self._by_index = {index: named for named in all_named for index in named.images}
        self._several = len(all_named) > 1
        if collection.named:
            for place in journal.missing():
                if place in self._by_index:
                    self._by_index[place].left += 1
            # Backwards: the next one is the last.
            self._waiting = [named for named in all_named if named.left][::-1]
        else:
            what = "frames" if any(image.frame for image in collection.images) else "images"
            self._progress = Progress(sys.stderr, what, journal.places, journal.done)

    def show(self, outcomes: list[Outcome]) -> None:
        """Prints what there is to say about some answers, or about none for a while."""
        self._done += len(outcomes)
        if self._progress is None:
            self._show_in_order(outcomes)
            return
        for outcome in outcomes:
            self._show_error(outcome)
        self._progress.update(self._done, self._errors)

    def end(self) -> None:
        """Prints what has waited for an image before it, and removes the progress."""
        if self._progress is not None:
            self._progress.clear()
            return
        for named in reversed(self._waiting):
            if not named.left:
                self._show_named(named)

    def _show_in_order(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            # Of an image under a perturbation nothing is said but what it tells of the image.
            if not outcome.variant:
                self._by_index[outcome.index].left -= 1
        while self._waiting and not self._waiting[-1].left:
            self._show_named(self._waiting.pop())

    def _show_named(self, named: Named) -> None:
        own = [self._journal.outcomes(variant, named.images) for variant in self._told]
        outcomes = list(merged(own))
        first = outcomes[0]
        name = f"{Path(first.video or first.path).name}: " if self._several else ""
        if first.video is None:
            _say(name, first, [_line(first)])
            return
        scoring = VideoScoring.of(self._how, self._journal.detector)
        verdict = judge_video(outcomes, scoring)
        _say(name, verdict, lines(verdict))

    def _show_error(self, outcome: Outcome) -> None:
        # That a frame shows no face is no failure: its video has others, or says so.
        if outcome.error is None or outcome.is_left_out:
            return
        self._errors += 1
        if self._errors > SHOWN_ERRORS or self._progress is None:
            return
        self._progress.clear()
        print(f"error: {outcome.path}: {outcome.message}", file=sys.stderr)
        if self._errors == SHOWN_ERRORS:
            print("further failures are in the results file alone", file=sys.stderr)


def _find_named(images: Sequence[Image]) -> list[Named]:
    """Returns the images, and together the frames of one video, which follow one another."""
    found: list[Named] = []
    start = 0
    for _, group in groupby(enumerate(images), key=_identity):
        stop = start + sum(1 for _ in group)
        found.append(Named(range(start, stop)))
        start = stop
    return found


def _identity(numbered: tuple[int, Image]) -> object:
    index, image = numbered
    return index if image.frame is None else image.frame.video


def _say(name: str, found: Outcome | VideoVerdict, said: Iterable[str]) -> None:
    if found.error is not None:
        print(f"error: {found.path}: {found.message}", file=sys.stderr)
        return
    for line in said:
        print(f"{name}{line}", flush=True)


def _line(outcome: Outcome) -> str:
    label = LABELS[outcome.prediction]
    line = f"Prediction: {label} (confidence: {outcome.confidence:.4f})"
    if outcome.decision is not None:
        line += f"; {outcome.decision}: {outcome.rarity}"
    if outcome.unstable is not None:
        line += f"; {'UNSTABLE' if outcome.unstable else 'stable'} under small changes: "
        line += f"fake_probability {outcome.lowest:.4f} to {outcome.highest:.4f}"
    return line
