"""A run's images and options in, its answers in the journal out: from the first to the last."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from deepfake_tools.client.asker import Asker, Patience
from deepfake_tools.client.concurrency import Crew
from deepfake_tools.client.console import Console
from deepfake_tools.client.diagnosis import Diagnosis
from deepfake_tools.client.images import Collection
from deepfake_tools.client.journal import Journal
from deepfake_tools.client.pace import Pace
from deepfake_tools.client.questions import Change, Question
from deepfake_tools.errors import ServiceError
from deepfake_tools.evaluation.perturbations import Perturbation, perturb
from deepfake_tools.interrupts import Interruption
from deepfake_tools.torchserve.answers import DetectorInfo
from deepfake_tools.torchserve.tokens import Credentials

SHORTEST_ATTEMPT_SECONDS = 5.0


@dataclass(frozen=True)
class Target:
    """Whom to ask, and how insistently.

    Attributes:
        model: The served name.
        server: The inference API's address.
        management: The management API's address.
        credentials: The inference token.
        key_file: TorchServe's key file (--key-file).
        seconds: How long to wait for an image's answer, all attempts together.
        retries: How many times a request is repeated.
        concurrency: Most requests on their way at a time.
        ca: A file with the certificates to trust over https.
        cut: Leaves the face of each image; None sends images as they are.
    """

    model: str
    server: str
    management: str
    credentials: Credentials
    key_file: Path | None
    seconds: float
    retries: int
    concurrency: int
    ca: Path | None = None
    cut: Change | None = None

    @property
    def patience(self) -> Patience:
        """A request that the server has lost must leave time to ask again."""
        attempt = min(self.seconds, max(self.seconds / 4, SHORTEST_ATTEMPT_SECONDS))
        return Patience(self.seconds, attempt, self.retries)


@dataclass(frozen=True)
class Ending:
    """How a session ended; neither when everything was asked.

    Attributes:
        failure: What would have failed every further request.
        signal: What the user stopped it with.
    """

    failure: ServiceError | None = None
    signal: int | None = None


def make_asker(
    target: Target, pace: Pace, detector: DetectorInfo | None = None, version: str | None = None
) -> Asker:
    """Returns what asks a model, or one version of it, about a few images.

    Args:
        target: Whom to ask.
        pace: Says whether anything was answered so far, and waits.
        detector: What an earlier session's answers came from.
        version: The version to ask; the default one if None.
    """
    diagnosis = Diagnosis(
        target.model, target.server, target.management, target.key_file, target.ca
    )
    return Asker(
        target.server,
        target.model,
        target.credentials,
        target.patience,
        pace,
        diagnosis,
        detector,
        version,
        target.ca,
        aligns=target.cut is not None,
    )


def ask_all(
    target: Target,
    collection: Collection,
    variants: Sequence[Perturbation | None],
    journal: Journal,
    interruption: Interruption,
) -> Ending:
    """Asks about every image that the journal lacks, and shows what comes of it.

    Args:
        target: Whom to ask.
        collection: The images.
        variants: The perturbations to ask under; None is the image as it is.
        journal: Takes the answers.
        interruption: Ends the session.
    """
    pace = Pace(target.concurrency, target.patience.attempt_seconds)
    asker = make_asker(target, pace, journal.detector)
    console = Console(collection, journal)
    crew = Crew(asker, pace, min(target.concurrency, journal.places - journal.done))
    try:
        for records in crew.work(_questions(collection, variants, journal, target.cut)):
            journal.add(records, asker.detector)
            console.show(records)
            if interruption.number is not None:
                for last in crew.left_over():
                    journal.add(last, asker.detector)
                return Ending(signal=interruption.number)
    except ServiceError as error:
        return Ending(failure=error)
    finally:
        console.end()
    return Ending()


def _questions(
    collection: Collection,
    variants: Sequence[Perturbation | None],
    journal: Journal,
    cut: Change | None,
) -> Iterator[Question]:
    for place in journal.missing():
        variant, index = divmod(place, len(collection.images))
        how = variants[variant]
        worsen = None if how is None else partial(_worsen, how)
        # Faces are looked for in the image as it was made worse, as a worker would.
        changes = tuple(change for change in (worsen, cut) if change is not None)
        yield Question(place, collection.images[index].path, changes)


def _worsen(how: Perturbation, data: bytes, detector: DetectorInfo) -> bytes:
    return perturb(data, how, detector.orientation)
