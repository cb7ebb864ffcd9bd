"""Request rows in, images out; verdicts in, JSON answers out. Knows HTTP's words, not the server's.

One image is answered with one verdict, several with a list in their order. Under KServe's v1 path
the list stands in ``predictions``, as that protocol wants it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from clip_deepfake.detector import ImageBytes
from clip_deepfake.errors import (
    DetectorError,
    EmptyImageError,
    NotOfferedError,
)
from clip_deepfake.instances import check_count, json_text, read_instances
from clip_deepfake.questions import Question
from clip_deepfake.verdicts import Verdict, to_fields


@dataclass(frozen=True)
class Request:
    """What one row asks for.

    Attributes:
        images: contents of image files, or the fault found in their place.
        kserve: whether the answer is wrapped as KServe's v1 protocol wants it.
    """

    images: tuple[ImageBytes | DetectorError, ...]
    kserve: bool = False


@dataclass(frozen=True)
class Answer:
    """One row's answer.

    Attributes:
        status: HTTP status; an error only when no image has a verdict.
        body: JSON text.
    """

    status: int
    body: str

    @property
    def phrase(self) -> str:
        """The status in words."""
        return HTTPStatus(self.status).phrase


def parse_request(question: Question, max_images: int) -> Request:
    """Finds the images of a request.

    Args:
        question: as the server received it.
        max_images: more are refused.

    Returns:
        The images; a fault of the whole request stands there as its only image.
    """
    try:
        if question.explain:
            raise NotOfferedError("explanations are not offered; ask at /predictions")
        images = tuple(_images(question, max_images))
    except DetectorError as error:
        images = (error,)
    return Request(images, question.kserve)


def _images(question: Question, most: int) -> list[ImageBytes | DetectorError]:
    parts = question.parts
    if not parts:
        raise EmptyImageError(
            "no image arrived; send the file with Content-Type: application/octet-stream"
        )
    if question.form is not None:
        question.form.check(parts)
    check_count(len(parts), most)
    images: list[ImageBytes | DetectorError] = []
    for part in parts.values():
        text = json_text(part)
        images += [part] if text is None else read_instances(text, most)
        check_count(len(images), most)
    return images


def form_answer(
    request: Request,
    verdicts: Sequence[Verdict | DetectorError],
    detector: Mapping[str, str | float | None],
) -> Answer:
    """Writes the answer to a request.

    Args:
        request: what was asked.
        verdicts: one for each of its images, in order.
        detector: short form of the card, part of every verdict.
    """
    body: object
    if len(verdicts) == 1 and not request.kserve:
        body = _entry(verdicts[0], detector)
    else:
        entries = [_entry(verdict, detector) | _own_status(verdict) for verdict in verdicts]
        body = {"predictions": entries} if request.kserve else entries
    return Answer(_status(verdicts), json.dumps(body, allow_nan=False))


def _entry(
    verdict: Verdict | DetectorError, detector: Mapping[str, str | float | None]
) -> dict[str, object]:
    if isinstance(verdict, DetectorError):
        return {"error": {"code": verdict.code, "message": str(verdict)}}
    return to_fields(verdict) | {"detector": detector}


def _own_status(verdict: Verdict | DetectorError) -> dict[str, object]:
    """What an error in a list adds, since the list's own status is that of its good entries."""
    return {"status": verdict.status} if isinstance(verdict, DetectorError) else {}


def _status(verdicts: Sequence[Verdict | DetectorError]) -> int:
    errors = [verdict.status for verdict in verdicts if isinstance(verdict, DetectorError)]
    if len(errors) < len(verdicts):
        return HTTPStatus.OK
    return errors[0] if len(set(errors)) == 1 else HTTPStatus.BAD_REQUEST
