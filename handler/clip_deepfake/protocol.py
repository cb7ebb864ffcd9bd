"""Request rows in, images out; verdicts in, JSON answers out. Knows HTTP's words, not the server's.

One image is answered with one verdict, several with a list in their order. Under KServe's v1 path
the list stands in ``predictions``, as that protocol wants it.
"""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from clip_deepfake.detector import ImageBytes
from clip_deepfake.errors import (
    DetectorError,
    EmptyImageError,
    InvalidBase64Error,
    NotOfferedError,
    RequestError,
    TooManyImagesError,
)
from clip_deepfake.verdicts import Verdict, to_fields

INSTANCES = 'send {"instances": [{"b64": "…"}, …]}, or the image file itself'


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


def parse_request(
    row: Mapping[str, object], *, explain: bool, kserve: bool, max_images: int
) -> Request:
    """Finds the images of a request.

    Args:
        row: the request's parts by name: bytes, or JSON that is decoded already.
        explain: whether an explanation is asked for.
        kserve: whether it came by KServe's v1 path.
        max_images: more are refused.

    Returns:
        The images; a fault of the whole request stands there as its only image.
    """
    try:
        if explain:
            raise NotOfferedError("explanations are not offered; ask at /predictions")
        images = tuple(_image(part) for part in _parts(row))
        if len(images) > max_images:
            raise TooManyImagesError(
                f"{len(images)} images in one request, the limit is {max_images}; send several"
            )
    except DetectorError as error:
        images = (error,)
    return Request(images, kserve)


def _parts(row: Mapping[str, object]) -> Sequence[object]:
    """Splits a request into one part an image."""
    if not row:
        raise EmptyImageError(
            "no image arrived; send the file with Content-Type: application/octet-stream"
        )
    if len(row) > 1:
        return list(row.values())
    (part,) = row.values()
    if isinstance(part, bytes | bytearray) and part[:1] in (b"{", b"["):
        part = _parse_json(part)
    if isinstance(part, dict | list):
        return _instances(part)
    return [part]


def _parse_json(text: bytes | bytearray) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not valid JSON ({error}); {INSTANCES}") from error


def _instances(body: object) -> Sequence[object]:
    if isinstance(body, dict) and "inputs" in body:
        raise NotOfferedError(f"KServe's v2 protocol is not offered; {INSTANCES}")
    instances = body.get("instances") if isinstance(body, dict) else None
    if not isinstance(instances, list) or not instances:
        raise RequestError(f"the JSON holds no list of instances; {INSTANCES}")
    return instances


def _image(part: object) -> ImageBytes | DetectorError:
    if isinstance(part, bytes | bytearray):
        return part
    if not isinstance(part, dict) or not isinstance(part.get("b64"), str):
        return RequestError(f"not an object with a b64 text; {INSTANCES}")
    try:
        return base64.b64decode(part["b64"], validate=True)
    except (binascii.Error, ValueError) as error:
        return InvalidBase64Error(f"b64 is not base64 ({error})")


def form_answer(
    request: Request,
    verdicts: Sequence[Verdict | DetectorError],
    detector: Mapping[str, str | int | None],
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
    verdict: Verdict | DetectorError, detector: Mapping[str, str | int | None]
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
