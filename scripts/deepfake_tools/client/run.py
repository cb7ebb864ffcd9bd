"""A run of the client from its first image to the last, and what a person sees of it meanwhile."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from deepfake_tools.client.asker import Asker, RetryPolicy
from deepfake_tools.client.concurrency import RequestPool, Throttle
from deepfake_tools.client.diagnosis import Diagnosis
from deepfake_tools.client.images import Collection
from deepfake_tools.client.journal import Journal
from deepfake_tools.client.payloads import Change, PendingImage
from deepfake_tools.client.records import Record
from deepfake_tools.errors import ServiceError
from deepfake_tools.evaluation.perturbations import Perturbation, perturb
from deepfake_tools.interrupts import Interruption
from deepfake_tools.progress import Progress
from deepfake_tools.torchserve.answers import DetectorInfo
from deepfake_tools.torchserve.tokens import Credentials

SHORTEST_ATTEMPT_SECONDS = 5.0
SHOWN_ERRORS = 10


@dataclass(frozen=True)
class Target:
    """Whom to ask, and how insistently.

    Attributes:
        model: The served name.
        version: The version to ask; the default one if None.
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
    version: str | None
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
    def retry_policy(self) -> RetryPolicy:
        """A request that the server has lost must leave time to ask again."""
        attempt = min(self.seconds, max(self.seconds / 4, SHORTEST_ATTEMPT_SECONDS))
        return RetryPolicy(self.seconds, attempt, self.retries)


@dataclass(frozen=True)
class Ending:
    """How a session ended; neither when everything was asked.

    Attributes:
        failure: What would have failed every further request.
        signal: What the user stopped it with.
    """

    failure: ServiceError | None = None
    signal: int | None = None


def make_asker(target: Target, throttle: Throttle, detector: DetectorInfo | None = None) -> Asker:
    """Returns what asks a model about a few images.

    Args:
        target: Whom to ask.
        throttle: Says whether anything was answered so far, and waits.
        detector: What an earlier session's answers came from.
    """
    diagnosis = Diagnosis(
        target.model,
        target.version,
        target.server,
        target.management,
        target.key_file,
        target.ca,
    )
    return Asker(
        target.server,
        target.model,
        target.credentials,
        target.retry_policy,
        throttle,
        diagnosis,
        detector,
        target.version,
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
    throttle = Throttle(target.concurrency, target.retry_policy.attempt_seconds)
    asker = make_asker(target, throttle, journal.detector)
    console = Console(collection, journal)
    pool = RequestPool(asker.ask, throttle, min(target.concurrency, journal.places - journal.done))
    try:
        for records in pool.work(_pending(collection, variants, journal, target.cut)):
            journal.add(records, asker.detector)
            console.show(records)
            if interruption.number is not None:
                for last in pool.left_over():
                    journal.add(last, asker.detector)
                return Ending(signal=interruption.number)
    except ServiceError as error:
        return Ending(failure=error)
    finally:
        console.end()
    return Ending()


def _pending(
    collection: Collection,
    variants: Sequence[Perturbation | None],
    journal: Journal,
    cut: Change | None,
) -> Iterator[PendingImage]:
    for place in journal.missing():
        variant, index = divmod(place, len(collection.images))
        how = variants[variant]
        worsen = None if how is None else partial(_worsen, how)
        # Faces are looked for in the image as it was made worse, as a worker would.
        changes = tuple(change for change in (worsen, cut) if change is not None)
        yield PendingImage(place, collection.images[index].path, changes)


def _worsen(how: Perturbation, data: bytes, detector: DetectorInfo) -> bytes:
    return perturb(data, how, detector.orientation)


class Console:
    """What is printed while a run goes on.

    Images that were named by themselves get a line each, in their order. For others there is the
    progress, and the first few failures.

    Args:
        collection: The images of the run.
        journal: What was done before, and what is still to be done.
    """

    def __init__(self, collection: Collection, journal: Journal) -> None:
        self._images = collection.images
        self._done, self._errors = journal.done, 0
        self._progress: Progress | None = None
        self._order: list[int] = []
        self._waiting: dict[int, Record] = {}
        if collection.named:
            # Backwards: the next one is the last.
            self._order = list(journal.missing())[::-1]
        else:
            self._progress = Progress(sys.stderr, "images", journal.places, journal.done)

    def show(self, records: list[Record]) -> None:
        """Prints what there is to say about some answers, or about none for a while."""
        self._done += len(records)
        if self._progress is None:
            self._show_in_order(records)
            return
        for record in records:
            self._show_error(record)
        self._progress.update(self._done, self._errors)

    def end(self) -> None:
        """Prints what has waited for an image before it, and removes the progress."""
        for place in sorted(self._waiting):
            self._show_line(self._waiting.pop(place))
        if self._progress is not None:
            self._progress.clear()

    def _show_in_order(self, records: list[Record]) -> None:
        self._waiting |= {record.place: record for record in records}
        while self._order and self._order[-1] in self._waiting:
            self._show_line(self._waiting.pop(self._order.pop()))

    def _show_line(self, record: Record) -> None:
        if record.place >= len(self._images):
            return  # a perturbed one
        path = self._images[record.place].path
        if record.error is not None:
            print(f"error: {path}: {record.message}", file=sys.stderr)
            return
        probability = record.fake_probability or 0.0
        confidence = probability if record.prediction else 1 - probability
        label = "FAKE" if record.prediction else "REAL"
        name = f"{Path(path).name}: " if len(self._images) > 1 else ""
        print(f"{name}Prediction: {label} (confidence: {confidence:.4f})", flush=True)

    def _show_error(self, record: Record) -> None:
        if record.error is None:
            return
        self._errors += 1
        if self._errors > SHOWN_ERRORS or self._progress is None:
            return
        self._progress.clear()
        path = self._images[record.place % len(self._images)].path
        print(f"error: {path}: {record.message}", file=sys.stderr)
        if self._errors == SHOWN_ERRORS:
            print("further failures are in the results file alone", file=sys.stderr)
