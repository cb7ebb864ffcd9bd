"""A run of the client from its first image to the last: what is asked, and how it ends."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from deepfake_tools.client.asker import Asker
from deepfake_tools.client.concurrency import RequestPool, Throttle
from deepfake_tools.client.images import Image
from deepfake_tools.client.journal import Journal
from deepfake_tools.client.payloads import Change, PendingImage
from deepfake_tools.client.target import Target
from deepfake_tools.client.videos import FrameFeed
from deepfake_tools.errors import ServiceError
from deepfake_tools.evaluation.outcomes import Outcome
from deepfake_tools.evaluation.perturbations import Perturbation, perturb
from deepfake_tools.interrupts import Interruption
from deepfake_tools.torchserve.answers import DetectorInfo
from deepfake_tools.videos.processes import Picture


@dataclass(frozen=True)
class Ending:
    """How a session ended; neither when everything was asked.

    Attributes:
        failure: What would have failed every further request.
        signal: What the user stopped it with.
    """

    failure: ServiceError | None = None
    signal: int | None = None


class Audience(Protocol):
    """Whoever is told of a run while it goes on."""

    def show(self, outcomes: list[Outcome]) -> None:
        """Takes some answers, or none for a while."""

    def end(self) -> None:
        """Is told that there will be no more."""


def ask_all(
    target: Target,
    images: Sequence[Image],
    variants: Sequence[Perturbation | None],
    journal: Journal,
    interruption: Interruption,
    audience: Audience,
    *,
    together: bool = False,
) -> Ending:
    """Asks about every image that the journal lacks, and shows what comes of it.

    Args:
        target: Whom to ask.
        images: Of the run.
        variants: The perturbations to ask under; None is the image as it is.
        journal: Takes the answers.
        interruption: Ends the session.
        audience: Is shown what comes of it.
        together: Whether an image is asked about under all variants in one request.
    """
    in_one = len(variants) if together else 1
    throttle = Throttle(target.concurrency, target.attempt_seconds, in_one)
    asker = Asker(target, throttle, journal.detector)
    pool = RequestPool(asker.ask, throttle, min(target.concurrency, journal.places - journal.done))
    work = Work(images, variants, journal.missing(), target.cut, together=together)
    try:
        with work as pending:
            for outcomes in pool.work(pending):
                journal.add(outcomes, asker.detector)
                audience.show(outcomes)
                if interruption.number is not None:
                    for last in pool.left_over():
                        journal.add(last, asker.detector)
                    return Ending(signal=interruption.number)
    except ServiceError as error:
        return Ending(failure=error)
    finally:
        audience.end()
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
