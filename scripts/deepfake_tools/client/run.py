"""A run of the client from its first image to the last, and what a person sees of it meanwhile."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from deepfake_tools.client.asker import Asker
from deepfake_tools.client.concurrency import RequestPool, Throttle
from deepfake_tools.client.images import Collection, Image
from deepfake_tools.client.journal import Journal
from deepfake_tools.client.payloads import Change, PendingImage
from deepfake_tools.client.target import Target
from deepfake_tools.client.videos import FrameFeed
from deepfake_tools.errors import ServiceError
from deepfake_tools.evaluation.outcomes import LABELS, Outcome
from deepfake_tools.evaluation.perturbations import Perturbation, perturb
from deepfake_tools.evaluation.stability import with_stability
from deepfake_tools.interrupts import Interruption
from deepfake_tools.progress import Progress
from deepfake_tools.torchserve.answers import DetectorInfo
from deepfake_tools.videos.processes import Picture

SHOWN_ERRORS = 10


@dataclass(frozen=True)
class Ending:
    """How a session ended; neither when everything was asked.

    Attributes:
        failure: What would have failed every further request.
        signal: What the user stopped it with.
    """

    failure: ServiceError | None = None
    signal: int | None = None


def ask_all(
    target: Target,
    collection: Collection,
    variants: Sequence[Perturbation | None],
    journal: Journal,
    interruption: Interruption,
    *,
    together: bool = False,
) -> Ending:
    """Asks about every image that the journal lacks, and shows what comes of it.

    Args:
        target: Whom to ask.
        collection: The images.
        variants: The perturbations to ask under; None is the image as it is.
        journal: Takes the answers.
        interruption: Ends the session.
        together: Whether an image is asked about under all variants in one request.
    """
    in_one = len(variants) if together else 1
    throttle = Throttle(target.concurrency, target.attempt_seconds, in_one)
    asker = Asker(target, throttle, journal.detector)
    console = Console(collection, journal, together=together)
    pool = RequestPool(asker.ask, throttle, min(target.concurrency, journal.places - journal.done))
    work = Work(collection.images, variants, journal.missing(), target.cut, together=together)
    try:
        with work as pending:
            for outcomes in pool.work(pending):
                journal.add(outcomes, asker.detector)
                console.show(outcomes)
                if interruption.number is not None:
                    for last in pool.left_over():
                        journal.add(last, asker.detector)
                    return Ending(signal=interruption.number)
    except ServiceError as error:
        return Ending(failure=error)
    finally:
        console.end()
    return Ending()


class Work:
    """What is left to ask about; entering it gives the images, one after another.

    What lies in files comes first, while the first frames are decoded. A frame is decoded once,
    and asked about under all its variants in a row.

    Args:
        images: Of the run.
        variants: The perturbations to ask under; None is the image as it is.
        places: Those without an outcome: a variant's position times the images, and the image's.
        cut: Leaves the face of each image; None leaves images as they are.
        together: Whether all variants of what lies in a file come in a row too.
    """

    def __init__(
        self,
        images: Sequence[Image],
        variants: Sequence[Perturbation | None],
        places: Iterable[int],
        cut: Change | None,
        *,
        together: bool,
    ) -> None:
        self._images, self._cut = images, cut
        self._variants = variants
        self._stills: list[int] = []
        self._frames: dict[int, list[int]] = {}
        for place in places:
            variant, index = divmod(place, len(images))
            if images[index].frame is None:
                self._stills.append(place)
            else:
                self._frames.setdefault(index, []).append(variant)
        if together:
            self._stills.sort(key=lambda place: place % len(images))
        self._feed = FrameFeed(images, list(self._frames))

    def __enter__(self) -> Iterator[PendingImage]:
        self._feed.__enter__()
        return self._all()

    def __exit__(self, *error: object) -> None:
        self._feed.__exit__(*error)

    def _all(self) -> Iterator[PendingImage]:
        for place in self._stills:
            variant, index = divmod(place, len(self._images))
            yield self._pending(index, variant)
        for index, picture in self._feed:
            for variant in self._frames[index]:
                yield self._pending(index, variant, picture)

    def _pending(self, index: int, variant: int, picture: Picture | None = None) -> PendingImage:
        how = self._variants[variant]
        worsen = None if how is None else partial(_worsen, how)
        # Faces are looked for in the image as it was made worse, as a worker would.
        changes = tuple(change for change in (worsen, self._cut) if change is not None)
        return PendingImage(index, self._images[index], variant, changes, picture)


def _worsen(how: Perturbation, data: bytes, detector: DetectorInfo) -> bytes:
    return perturb(data, how, detector.orientation)


class Console:
    """What is printed while a run goes on.

    Images that were named by themselves get a line each, in their order. For others there is the
    progress, and the first few failures.

    Args:
        collection: The images of the run.
        journal: What was done before, and what is still to be done.
        together: Whether what comes of an image under all variants comes at once.
    """

    def __init__(self, collection: Collection, journal: Journal, *, together: bool) -> None:
        self._together = together
        self._count = len(collection.images)
        self._done, self._errors = journal.done, 0
        self._progress: Progress | None = None
        self._order: list[int] = []
        self._waiting: dict[int, Outcome] = {}
        if collection.named:
            # Backwards: the next one is the last.
            self._order = [place for place in journal.missing() if place < self._count][::-1]
        else:
            self._progress = Progress(sys.stderr, "images", journal.places, journal.done)

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
        for index in sorted(self._waiting):
            self._show_line(self._waiting.pop(index))
        if self._progress is not None:
            self._progress.clear()

    def _show_in_order(self, outcomes: list[Outcome]) -> None:
        # Of an image under a perturbation nothing is said but what it tells of the image.
        told = with_stability(outcomes) if self._together else outcomes
        self._waiting |= {outcome.index: outcome for outcome in told if not outcome.variant}
        while self._order and self._order[-1] in self._waiting:
            self._show_line(self._waiting.pop(self._order.pop()))

    def _show_line(self, outcome: Outcome) -> None:
        if outcome.error is not None:
            print(f"error: {outcome.path}: {outcome.message}", file=sys.stderr)
            return
        name = f"{Path(outcome.path).name}: " if self._count > 1 else ""
        label = LABELS[outcome.prediction]
        line = f"{name}Prediction: {label} (confidence: {outcome.confidence:.4f})"
        if outcome.decision is not None:
            line += f"; {outcome.decision}: {outcome.rarity}"
        if outcome.unstable is not None:
            line += f"; {'UNSTABLE' if outcome.unstable else 'stable'} under small changes: "
            line += f"fake_probability {outcome.lowest:.4f} to {outcome.highest:.4f}"
        print(line, flush=True)

    def _show_error(self, outcome: Outcome) -> None:
        if outcome.error is None:
            return
        self._errors += 1
        if self._errors > SHOWN_ERRORS or self._progress is None:
            return
        self._progress.clear()
        print(f"error: {outcome.path}: {outcome.message}", file=sys.stderr)
        if self._errors == SHOWN_ERRORS:
            print("further failures are in the results file alone", file=sys.stderr)
