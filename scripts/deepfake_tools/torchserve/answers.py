"""What TorchServe and the detector answer: untrusted JSON, checked and typed."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar, cast, get_args

from deepfake_tools.errors import (
    ImageRefusedError,
    ServiceError,
    UnexpectedAnswerError,
    WorkerFailedError,
    one_line,
)

T = TypeVar("T")

Orientation = Literal["opencv-4", "opencv-5", "pillow"]
"""As in `clip_deepfake.images`, which needs more libraries than a client has."""

Ruling = Literal["FAKE", "REAL", "UNSURE"]
"""As in `clip_deepfake.decision`, which needs a library that a client may lack."""

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels of the image as the detector reads it; may reach beyond."""

LARGEST_SIDE = 4096
MOST_FACES = 1024
"""Judged in one image: no card says more."""

FARTHEST = 1_000_000
"""Of a box's sides from the image's corner, in pixels: no image that a detector takes is larger."""

MOST = sys.float_info.max

MOST_ROWS = 128
"""Of an explanation's grid, and parts of a row: no encoder has more patches in a row."""

SLACK = 1e-3
"""By which an explanation's parts may miss the margin, as a share of the sum of their sizes."""

Corner = tuple[float, float]
"""x and y in pixels of the image as the detector reads it; may lie outside of it."""


@dataclass(frozen=True)
class DetectorInfo:
    """The card's short form: what judged an image.

    Attributes:
        head: "untrained" where its verdicts mean nothing.
        faces: Whether it aligns faces itself: "largest" or "all"; None where it does not.
        threshold: FAKE is answered above this probability; None where an archive that an earlier
            version built does not say it.
        orientation: Which images it turns as their EXIF data says; an older one turns all.
        face_side: Of the aligned crops that it was trained on, in pixels.
        false_alarms: The share of real images that its decision may call FAKE; None without one.
        calibrated_by: How many real images hold that share.
        held_out_auc: Of a head that this project trained, on images held out from the training.
        held_out_images: How many those are.
        trained_on: The fingerprint of all of its images, held-out ones included: SHA-256 over the
            sorted lines ``<SHA-256 of the file> <label>``, each once.
        trained_images: How many files those are.
    """

    model: str
    commit: str | None
    version: str
    head: str
    precision: str
    engine: str
    faces: str | None = None
    orientation: Orientation = "opencv-5"
    face_side: int = 224
    threshold: float | None = None
    false_alarms: float | None = None
    calibrated_by: int | None = None
    held_out_auc: float | None = None
    held_out_images: int | None = None
    trained_on: str | None = None
    trained_images: int | None = None

    @property
    def is_untrained(self) -> bool:
        """Whether the head was never trained, so that the verdict means nothing."""
        return self.head == "untrained"


@dataclass(frozen=True, slots=True)
class ServedFace:
    """A judged face of an image.

    Attributes:
        box: Where it is.
        fake_probability: In [0, 1].
        prediction: 0 (real) or 1 (fake).
        margin: The logit that `fake_probability` is the sigmoid of; None of an older archive.
    """

    box: Box
    fake_probability: float
    prediction: int
    margin: float | None = None


@dataclass(frozen=True)
class ServedExplanation:
    """What a verdict's margin is made of.

    Attributes:
        method: How it was found.
        grid: Contributions of the parts of the picture, row by row, all rows of one length:
            positive towards FAKE, negative towards REAL.
        rest: What comes from no part: `grid` and `rest` add up to `margin`.
        margin: The FAKE logit less the REAL one, or the one logit.
        passes: Of the encoder that it took, beside the verdict's own.
        corners: Where the grid lies in the image: its top left corner, then clockwise; None where
            it is all of the image.
    """

    method: str
    grid: tuple[tuple[float, ...], ...]
    rest: float
    margin: float
    passes: int
    corners: tuple[Corner, ...] | None = None

    def corners_in(self, width: int, height: int) -> tuple[Corner, ...]:
        """Returns where the grid lies in an image of so many pixels."""
        return self.corners or ((0, 0), (width, 0), (width, height), (0, height))


@dataclass(frozen=True)
class ServedVerdict:
    """One image's answer.

    Attributes:
        label: REAL or FAKE.
        prediction: 0 (real) or 1 (fake).
        confidence: The probability of the label given, in [0, 1].
        fake_probability: In [0, 1].
        detector: What judged it.
        margin: The logit that `fake_probability` is the sigmoid of; None of an older archive.
        decision: FAKE, REAL or UNSURE at the card's rate of false alarms; None where it has none.
        false_alarm_rate: Share of the card's real images that look at least as fake, in [0, 1].
        faces: Each that was judged; none where the whole image was, for want of a face. None where
            the detector does not look for faces.
        explanation: Of the margin; None unless asked for.
    """

    label: str
    prediction: int
    confidence: float
    fake_probability: float
    detector: DetectorInfo
    margin: float | None = None
    decision: Ruling | None = None
    false_alarm_rate: float | None = None
    faces: tuple[ServedFace, ...] | None = None
    explanation: ServedExplanation | None = None


@dataclass(frozen=True)
class ServedModel:
    """A line of TorchServe's model list: a name and its default version's archive."""

    name: str
    archive: str


@dataclass(frozen=True)
class WorkerStatus:
    """A worker process of a model version."""

    id: str
    status: str
    pid: int

    @property
    def is_ready(self) -> bool:
        """Whether it takes requests."""
        return self.status == "READY"


@dataclass(frozen=True)
class ModelVersion:
    """One registered version of a model.

    Attributes:
        name: The served name.
        version: The version.
        archive: What it was registered from, as TorchServe was told.
        min_workers: How many workers TorchServe keeps up.
        max_workers: How many it may have.
        batch_size: Requests in one call of the handler, at most.
        pending_requests: How many wait in its queue.
        workers: Its workers, whatever their status.
    """

    name: str
    version: str
    archive: str
    min_workers: int
    max_workers: int
    batch_size: int
    pending_requests: int
    workers: tuple[WorkerStatus, ...]

    @property
    def ready_workers(self) -> int:
        """How many workers take requests."""
        return sum(worker.is_ready for worker in self.workers)


def parse_json(body: bytes) -> object:
    """Returns the body's JSON value.

    Raises:
        UnexpectedAnswerError: It is not JSON.
    """
    try:
        value: object = json.loads(body)
    except (ValueError, RecursionError) as error:
        start = one_line(body[:80].decode(errors="replace"))
        raise UnexpectedAnswerError(
            f"the answer is not JSON: {start!r}; is a TorchServe at this address?"
        ) from error
    return value


def parse_verdict(value: object) -> ServedVerdict:
    """Returns the verdict that the detector gave on one image.

    Raises:
        UnexpectedAnswerError: A field is missing or out of range.
    """
    answer = _checked("verdict", value, dict)
    return ServedVerdict(
        label=_text(answer, "label"),
        prediction=_prediction(answer),
        confidence=_probability(answer, "confidence"),
        fake_probability=_probability(answer, "fake_probability"),
        margin=_optional(answer, "margin", _finite),
        decision=_optional(answer, "decision", _ruling),
        false_alarm_rate=_optional(answer, "false_alarm_rate", _probability),
        faces=_faces(answer),
        explanation=_optional(answer, "explanation", _explanation),
        detector=parse_detector(_field(answer, "detector", dict)),
    )


def parse_detector(detector: dict[str, object]) -> DetectorInfo:
    """Returns what the short form of a card says.

    Raises:
        UnexpectedAnswerError: A field is missing or out of range.
    """
    return DetectorInfo(
        model=_text(detector, "model"),
        commit=_optional(detector, "commit", _text),
        version=_text(detector, "version"),
        head=_text(detector, "head"),
        precision=_text(detector, "precision"),
        engine=_text(detector, "engine"),
        faces=_optional(detector, "faces", _text),
        threshold=_optional(detector, "threshold", _probability),
        orientation=_orientation(detector),
        face_side=_side(detector),
        false_alarms=_optional(detector, "false_alarms", _probability),
        calibrated_by=_optional(detector, "calibrated_by", _count),
        held_out_auc=_optional(detector, "held_out_auc", _probability),
        held_out_images=_optional(detector, "held_out_images", _count),
        trained_on=_optional(detector, "trained_on", _text),
        trained_images=_optional(detector, "trained_images", _count),
    )


def parse_entries(value: object, count: int) -> list[ServedVerdict | ServiceError]:
    """Returns what the detector gave on several images, in their order: a verdict, or why not.

    Raises:
        UnexpectedAnswerError: It is no list of that length, or an entry is neither.
    """
    entries = [_checked("entry", entry, dict) for entry in _checked("list", value, list)]
    if len(entries) != count:
        raise _unusable("length", f"{len(entries)} answers to {count} images")
    return [
        detector_failure(_field(entry, "status", int), _field(entry, "error", dict))
        if "error" in entry
        else parse_verdict(entry)
        for entry in entries
    ]


def detector_failure(status: int, error: Mapping[str, object]) -> ServiceError:
    """Turns the detector's error on one image into the failure that it stands for.

    Args:
        status: The image's own; a list of answers has another.
        error: The code and the message.
    """
    code, message = one_line(error.get("code")), one_line(error.get("message"))
    if status >= 500:
        return WorkerFailedError(f"the detector failed with {code}: {message}", code)
    return ImageRefusedError(f"refused as {code}: {message}", code)


def parse_model_page(value: object) -> tuple[list[ServedModel], str | None]:
    """Returns one page of the model list, and the token of the next page where there is one.

    Raises:
        UnexpectedAnswerError: A field is missing or of another type.
    """
    page = _checked("model list", value, dict)
    entries = [_checked("model", entry, dict) for entry in _field(page, "models", list)]
    models = [ServedModel(_text(entry, "modelName"), _text(entry, "modelUrl")) for entry in entries]
    return models, _text(page, "nextPageToken") if "nextPageToken" in page else None


def parse_versions(value: object) -> tuple[ModelVersion, ...]:
    """Returns the versions in TorchServe's description of a model.

    Raises:
        UnexpectedAnswerError: A field is missing or of another type.
    """
    return tuple(
        _version(_checked("version", entry, dict)) for entry in _checked("description", value, list)
    )


def parse_customized(value: object) -> object:
    """Returns what the handler said in a description asked for with `customized=true`.

    Raises:
        UnexpectedAnswerError: It is not the description of one version.
    """
    versions = _checked("description", value, list)
    if len(versions) != 1:
        raise _unusable("description", value)
    return _field(_checked("version", versions[0], dict), "customizedMetadata", object)


def _faces(answer: dict[str, object]) -> tuple[ServedFace, ...] | None:
    """Returns the judged faces of a verdict: of several, or of the one that it is about."""
    if answer.get("face") is None:
        return None
    place = _field(answer, "face", dict)
    found = place.get("found")
    if not isinstance(found, bool):
        raise _unusable("found", found)
    if not found:
        return ()
    if answer.get("faces") is None:
        return (_face(answer, place),)
    entries = _field(answer, "faces", list)
    if not 0 < len(entries) <= MOST_FACES:
        raise _unusable("number of faces", len(entries))
    faces = [_checked("face", entry, dict) for entry in entries]
    return tuple(_face(face, face) for face in faces)


def _face(judged: dict[str, object], place: dict[str, object]) -> ServedFace:
    """Returns a face.

    Args:
        judged: Holds what is thought of it.
        place: Holds its box.
    """
    return ServedFace(
        box=_box(place, "box"),
        fake_probability=_probability(judged, "fake_probability"),
        prediction=_prediction(judged),
        margin=_optional(judged, "margin", _finite),
    )


def _explanation(answer: dict[str, object], key: str) -> ServedExplanation:
    found = _field(answer, key, dict)
    explanation = ServedExplanation(
        method=_text(found, "method"),
        grid=_grid(found),
        rest=_finite(found, "rest"),
        margin=_finite(found, "margin"),
        passes=_count(found, "passes"),
        corners=_optional(found, "corners", _corners),
    )
    parts = [explanation.rest, *(part for row in explanation.grid for part in row)]
    scale = sum(map(abs, parts))
    # A sum that no float holds is nobody's margin.
    if scale > MOST or abs(sum(parts) - explanation.margin) > SLACK * max(scale, 1.0):
        raise _unusable("explanation", f"parts of {sum(parts):g} for {explanation.margin:g}")
    return explanation


def _grid(found: dict[str, object]) -> tuple[tuple[float, ...], ...]:
    rows = [_checked("grid", row, list) for row in _field(found, "grid", list)]
    if not 0 < len(rows) <= MOST_ROWS or not 0 < len(rows[0]) <= MOST_ROWS:
        raise _unusable("grid", f"{len(rows)} rows")
    if any(len(row) != len(rows[0]) for row in rows):
        raise _unusable("grid", "rows of different lengths")
    return tuple(tuple(_number("grid", part) for part in row) for row in rows)


def _corners(found: dict[str, object], key: str) -> tuple[Corner, ...]:
    corners = []
    for corner in _field(found, key, list):
        place = [_number(key, number) for number in _checked(key, corner, list)]
        if len(place) != 2 or any(abs(number) > FARTHEST for number in place):
            raise _unusable(key, place)
        corners.append((place[0], place[1]))
    if len(corners) != 4:
        raise _unusable(key, corners)
    return tuple(corners)


def _box(place: dict[str, object], key: str) -> Box:
    sides = [_checked(key, side, int) for side in _field(place, key, list)]
    if len(sides) == 4 and all(abs(side) <= FARTHEST for side in sides):
        left, top, right, bottom = sides
        if left <= right and top <= bottom:
            return left, top, right, bottom
    raise _unusable(key, sides)


def _version(entry: dict[str, object]) -> ModelVersion:
    workers = [_checked("worker", worker, dict) for worker in _field(entry, "workers", list)]
    return ModelVersion(
        name=_text(entry, "modelName"),
        version=_text(entry, "modelVersion"),
        archive=_text(entry, "modelUrl"),
        min_workers=_field(entry, "minWorkers", int),
        max_workers=_field(entry, "maxWorkers", int),
        batch_size=_field(entry, "batchSize", int),
        pending_requests=_field(_field(entry, "jobQueueStatus", dict), "pendingRequests", int),
        workers=tuple(
            WorkerStatus(_text(worker, "id"), _text(worker, "status"), _field(worker, "pid", int))
            for worker in workers
        ),
    )


def _optional(
    answer: dict[str, object], key: str, read: Callable[[dict[str, object], str], T]
) -> T | None:
    return None if answer.get(key) is None else read(answer, key)


def _prediction(answer: dict[str, object]) -> int:
    label, prediction = _text(answer, "label"), _field(answer, "prediction", int)
    if (label, prediction) in (("REAL", 0), ("FAKE", 1)):
        return prediction
    raise _unusable("label", f"{label} with prediction {prediction}")


def _probability(answer: dict[str, object], key: str) -> float:
    value = _finite(answer, key)
    if 0 <= value <= 1:
        return value
    raise _unusable(key, answer[key])


def _finite(answer: dict[str, object], key: str) -> float:
    return _number(key, answer.get(key))


def _number(what: str, value: object) -> float:
    # Compared, not converted: JSON holds integers that no float does.
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST:
        return float(value)
    raise _unusable(what, value)


def _ruling(answer: dict[str, object], key: str) -> Ruling:
    for known in get_args(Ruling):
        if answer[key] == known:
            return cast(Ruling, known)
    raise _unusable(key, answer[key])


def _count(detector: dict[str, object], key: str) -> int:
    value = _field(detector, key, int)
    if value > 0:
        return value
    raise _unusable(key, value)


def _orientation(detector: dict[str, object]) -> Orientation:
    value = detector.get("orientation", DetectorInfo.orientation)
    for known in get_args(Orientation):
        if value == known:
            return cast(Orientation, known)
    raise _unusable("orientation", value)


def _side(detector: dict[str, object]) -> int:
    value = detector.get("face_side", DetectorInfo.face_side)
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST_SIDE:
        return value
    raise _unusable("face_side", value)


def _text(answer: dict[str, object], key: str) -> str:
    return one_line(_field(answer, key, str))


def _field(answer: dict[str, object], key: str, kind: type[T]) -> T:
    return _checked(key, answer.get(key), kind)


def _checked(what: str, value: object, kind: type[T]) -> T:
    if isinstance(value, kind) and not isinstance(value, bool):
        return value
    raise _unusable(what, value)


def _unusable(what: str, value: object) -> UnexpectedAnswerError:
    return UnexpectedAnswerError(
        f"the answer's {what} cannot be used: {one_line(value, 80)!r}; is the model a detector of "
        "this project, and the server TorchServe 0.12?"
    )
