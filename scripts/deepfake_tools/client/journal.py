"""A journal of the answers, as they come: a run that was ended is gone on with from it (--resume).

One JSON value a line: what the run is, then a line for each image in the order of the answers.
What is kept in memory is where each image's line begins.
"""

import io
import json
import os
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from deepfake_tools.client.images import Image
from deepfake_tools.errors import OutputError, ServiceError
from deepfake_tools.evaluation.outcomes import Outcome
from deepfake_tools.files import is_kept, try_lock
from deepfake_tools.torchserve.answers import DetectorInfo, ServedFace

NOWHERE = -1
JUDGED = ("prediction", "fake_probability", "margin", "decision", "false_alarm_rate")
FAILED = ("error", "message", "exit_code", "is_passing")
"""What a line holds of either kind of outcome besides its times."""


class JournalError(ServiceError):
    """What an earlier run has left does not go together with this one."""

    exit_code: ClassVar[int] = 17
    meaning: ClassVar[str] = "an unfinished run is in the way, or is not the one to resume"
    kind = "journal"


@dataclass(frozen=True)
class Identity:
    """What must be the same for a run to be gone on with.

    Attributes:
        model: The served name, and the version where one is asked.
        images: How many there are.
        sha256: Of their paths and labels.
        variants: How they are changed before they are asked about; "" is not at all.
    """

    model: str
    images: int
    sha256: str
    variants: tuple[str, ...] = ("",)


class Journal:
    """The journal of one run.

    Args:
        file: Open for reading and writing, empty or with what an earlier session has written.
        identity: Of the run.
        images: Its images.

    Attributes:
        detector: What answers; None before the first verdict.
        done: How many images have an outcome, all variants together.
        retries: How many requests were repeated.

    Raises:
        JournalError: The file is another run's, or is damaged.
    """

    def __init__(self, file: BinaryIO, identity: Identity, images: Sequence[Image]) -> None:
        self._file = file
        self._images = images
        self._lines = array("q", [NOWHERE]) * (len(images) * len(identity.variants))
        self._earlier_seconds = self._session_seconds = 0.0
        self.detector: DetectorInfo | None = None
        self.done = self.retries = 0
        _cut_torn_line(file)
        self._read(identity)
        self._started = time.monotonic()
        run = {"model": identity.model, "images": identity.images, "sha256": identity.sha256}
        self._append({"session": run | {"variants": identity.variants}})

    @property
    def name(self) -> str:
        """The file's name."""
        return str(getattr(self._file, "name", "the journal"))

    @property
    def is_kept(self) -> bool:
        """Whether a later session finds it, since it is on disk."""
        return hasattr(self._file, "name")

    @property
    def seconds(self) -> float:
        """From the first request to the last answer, all sessions together."""
        return self._earlier_seconds + self._session_seconds

    @property
    def places(self) -> int:
        """How many outcomes there are in the end."""
        return len(self._lines)

    @property
    def is_complete(self) -> bool:
        """Whether every image has an outcome."""
        return self.done == self.places

    def missing(self) -> Iterator[int]:
        """Yields the places that have no outcome yet, in order."""
        return (place for place, line in enumerate(self._lines) if line == NOWHERE)

    def add(self, outcomes: Iterable[Outcome], detector: DetectorInfo | None) -> None:
        """Writes down what became of some images.

        Args:
            outcomes: One for each.
            detector: What has answered so far.

        Raises:
            OutputError: It cannot be written.
        """
        self._session_seconds = time.monotonic() - self._started
        try:
            if detector is not None and self.detector is None:
                self._append({"detector": asdict(detector)})
                self.detector = detector
            for outcome in outcomes:
                place = outcome.variant * len(self._images) + outcome.index
                line = {"place": place} | _fields(outcome, self._session_seconds)
                self._note(place, outcome, self._append(line))
            self._file.flush()
        except OSError as error:
            raise OutputError(f"cannot write {self.name}: {error.strerror}") from error

    def outcomes(self, variant: int = 0, images: range | None = None) -> Iterator[Outcome]:
        """Yields what is known under a variant, in the order of the images.

        Args:
            variant: Its position.
            images: The positions of some that follow one another; None takes all.
        """
        start = variant * len(self._images)
        own = range(len(self._images)) if images is None else images
        for offset in self._lines[start + own.start : start + own.stop]:
            if offset != NOWHERE:
                self._file.seek(offset)
                yield self._outcome(json.loads(self._file.readline()))

    def close(self, *, remove: bool) -> None:
        """Closes the file, and removes it when it is of no more use."""
        self._file.close()
        if remove and Path(self.name).is_file():
            Path(self.name).unlink()

    def _append(self, value: object) -> int:
        """Writes a line and returns where it begins."""
        offset = self._file.seek(0, os.SEEK_END)
        self._file.write(json.dumps(value).encode() + b"\n")
        return offset

    def _note(self, place: int, outcome: Outcome, offset: int) -> None:
        """Remembers where an outcome is."""
        self.done += self._lines[place] == NOWHERE
        self._lines[place] = offset
        self.retries += outcome.retries

    def _outcome(self, line: dict[str, Any]) -> Outcome:
        """Returns the outcome that a line holds.

        Raises:
            TypeError: It holds something else.
        """
        variant, index = divmod(line["place"], len(self._images))
        image = self._images[index]
        known: dict[str, Any] = {"prediction": None, "fake_probability": None}
        known |= {key: value for key, value in line.items() if key not in ("place", "at")}
        if "faces" in known:
            known["faces"] = tuple(_face(*numbers) for numbers in known["faces"])
        return Outcome(
            index=index,
            path=image.path,
            label=image.label,
            folder=image.folder,
            variant=variant,
            **image.in_video,
            **known,
        )

    def _read(self, identity: Identity) -> None:
        """Takes in what earlier sessions have written."""
        self._file.seek(0)
        offset = number = 0
        for number, line in enumerate(iter(self._file.readline, b""), start=1):
            try:
                self._take(json.loads(line), offset, identity)
            except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
                raise JournalError(
                    f"{self.name}, line {number} is damaged: delete the file and start anew"
                ) from error
            offset += len(line)

    def _take(self, line: dict[str, Any], offset: int, identity: Identity) -> None:
        if "session" in line:
            _check_same(line["session"], identity, self.name)
            self._earlier_seconds += self._session_seconds
            self._session_seconds = 0.0
        elif "detector" in line:
            self.detector = DetectorInfo(**line["detector"])
        else:
            outcome = self._outcome(line)
            self._session_seconds = line["at"]
            if outcome.is_passing:
                # It is asked again, but its retries count.
                self.retries += outcome.retries
            else:
                self._note(line["place"], outcome, offset)


def open_journal(
    path: Path | None, identity: Identity, images: Sequence[Image], *, resume: bool
) -> Journal:
    """Opens the journal of a run.

    Args:
        path: Where it is, or will be; None keeps it in memory.
        identity: Of the run.
        images: Its images.
        resume: Whether to go on with what is there. Otherwise nothing may be there.

    Raises:
        JournalError: What is there does not go together with that.
        OutputError: It cannot be written.
    """
    if path is None:
        return Journal(io.BytesIO(), identity, images)
    if not is_kept(path):
        raise OutputError(f"cannot write {path}: it is no regular file; see --output")
    try:
        file = path.open("a+b")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}; see --output") from error
    if not try_lock(file):
        raise JournalError(
            f"another run is writing {path}: wait for it, or choose another --output"
        )
    if not resume:
        if _has_outcomes(file):
            raise JournalError(
                f"{path} holds an unfinished run: go on with --resume, or delete it to start anew"
            )
        file.truncate(0)
    return Journal(file, identity, images)


def _fields(outcome: Outcome, at: float) -> dict[str, object]:
    """Returns what a line holds of an outcome besides its place.

    Args:
        outcome: The outcome.
        at: Seconds since the session began.
    """
    names = JUDGED if outcome.error is None else FAILED
    fields = {
        "seconds": None if outcome.seconds is None else round(outcome.seconds, 6),
        "retries": outcome.retries,
        "at": round(at, 3),
        **{name: getattr(outcome, name) for name in names},
    }
    if outcome.faces is not None:
        fields["faces"] = [_numbers(face) for face in outcome.faces]
    return fields


def _numbers(face: ServedFace) -> list[float | None]:
    """Returns a face as a line holds it: of a hundred thousand frames names would fill the disk."""
    return [*face.box, face.fake_probability, face.prediction, face.margin]


def _face(
    left: int,
    top: int,
    right: int,
    bottom: int,
    fake_probability: float,
    prediction: int,
    margin: float | None,
) -> ServedFace:
    return ServedFace((left, top, right, bottom), fake_probability, prediction, margin)


def _check_same(earlier: dict[str, Any], identity: Identity, name: str) -> None:
    """Refuses to mix two runs.

    Raises:
        JournalError: Naming what differs.
    """
    if earlier["model"] != identity.model:
        what = f"asked {earlier['model']}, this one {identity.model}"
    elif earlier["variants"] != list(identity.variants):
        what = "had another --perturb or --landmark_model"
    elif earlier["images"] != identity.images:
        what = f"was over {earlier['images']} images, this one is over {identity.images}"
    elif earlier["sha256"] != identity.sha256:
        what = "was over other images or labels"
    else:
        return
    raise JournalError(
        f"--resume: the run in {name} {what}: repeat its command, or delete the file to start anew"
    )


def _has_outcomes(file: BinaryIO) -> bool:
    file.seek(0)
    return any(b'"place"' in line for line in file)


def _cut_torn_line(file: BinaryIO) -> None:
    """Removes what a killed process began to write and did not finish."""
    file.seek(0)
    whole = 0
    for line in iter(file.readline, b""):
        if line.endswith(b"\n"):
            whole += len(line)
    file.truncate(whole)
