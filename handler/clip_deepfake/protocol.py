"""Images out of what a server was sent, bounded; JSON answers out of verdicts.

One image is answered with one verdict, several with a list in their order. Under KServe's v1 path
the list stands in ``predictions``, as that protocol wants it, or in ``explanations``.
"""

import base64
import codecs
import json
import re
import string
from collections.abc import Mapping, Sequence
from functools import cache
from http import HTTPStatus
from typing import TypeVar, cast, get_args

import msgspec
from msgspec import Raw, Struct

from clip_deepfake.detector import Submission
from clip_deepfake.errors import (
    DetectorError,
    EmptyImageError,
    InvalidBase64Error,
    NotOfferedError,
    RequestError,
    TooManyImagesError,
    UnknownOptionError,
)
from clip_deepfake.explaining import Wish
from clip_deepfake.formats import Bytes
from clip_deepfake.questions import Answer, Question
from clip_deepfake.verdicts import Method, Verdict, to_fields

INSTANCES = 'send {"instances": [{"b64": "…"}, …]}, or the image file itself'

JSON_START = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*([{\[])")
"""No image file begins like this. The first three bytes are a byte-order mark."""

DATA_URI = re.compile(r"\s*data:[^,]{0,256};base64,", re.IGNORECASE)
QUOTED = (("%2B", "+"), ("%2F", "/"), ("%3D", "="))
"""As a URI may have these."""

STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")
"""Of base64, from the one that is safe in URLs."""

OPTIONS: Mapping[str, tuple[str, ...]] = {"method": get_args(Method), "overlay": ("png",)}
"""Of an explanation, and what each may be."""

MOST_OPTION = 40
"""Characters of an option, of which no more are looked at."""

EMPTY_LIST = Raw(b"[]")

Decoded = TypeVar("Decoded", bound=Struct)


class _Body(Struct):
    """What is looked for in a body of JSON; Raw is its text, which nothing is made of."""

    instances: Raw = Raw()
    inputs: Raw = Raw()


class _ExplanationBody(_Body):
    """The same with the options of an explanation."""

    method: str | None = None
    overlay: str | None = None


class _Instance(Struct):
    b64: str


def find_images(question: Question, most: int) -> list[Submission]:
    """Finds the images of a request.

    Args:
        question: as the server received it.
        most: more images are refused.

    Returns:
        The images; a fault of the whole request stands there as its only image's.
    """
    try:
        return _images(question, most)
    except DetectorError as error:
        return [Submission(result=error)]


def _images(question: Question, most: int) -> list[Submission]:
    parts, options = question.parts, None
    if question.explain:
        # A form tells of them in fields of their own.
        fields = {name: parts[name] for name in OPTIONS if name in parts}
        parts = {name: part for name, part in parts.items() if name not in fields}
        options = {**question.options, **{name: _text(part) for name, part in fields.items()}}
    if not parts:
        raise EmptyImageError(
            "no image arrived; send the file with Content-Type: application/octet-stream"
        )
    if question.form is not None:
        question.form.check(question.parts)
    _check_count(len(parts), most)
    images: list[Submission] = []
    for part in parts.values():
        text = _json_text(part)
        if text is not None:
            images += _read_instances(text, most, options)
        else:
            images.append(Submission(part, wish=_wish(options)))
        _check_count(len(images), most)
    return images


def _text(part: Bytes) -> str:
    return bytes(part[:MOST_OPTION]).decode(errors="replace")


def _wish(options: Mapping[str, str] | None) -> Wish | None:
    """What an explanation is to be; None of a prediction.

    Raises:
        UnknownOptionError: it is nothing that there is.
    """
    if options is None:
        return None
    for name, value in options.items():
        if value not in OPTIONS[name]:
            raise UnknownOptionError(
                f"{name} {value[:MOST_OPTION]!r} is unknown; there is {', '.join(OPTIONS[name])}"
            )
    return Wish(cast(Method | None, options.get("method")), overlay="overlay" in options)


def _check_count(images: int, most: int) -> None:
    """Makes sure that a request holds no more images than it may.

    Raises:
        TooManyImagesError: it does.
    """
    if images > most:
        raise TooManyImagesError(
            f"more than {most} images in one request, which is the limit; send several"
        )


def _json_text(part: Bytes) -> Bytes | memoryview | None:
    """A part's JSON without what may stand before it; None where it is none, but an image."""
    if part[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        try:
            part = part.decode("utf-16").encode()
        except UnicodeError:
            return None
    found = JSON_START.match(part)
    return None if found is None else memoryview(part)[found.start(1) :]


def _read_instances(
    text: Bytes | memoryview, most: int, options: Mapping[str, str] | None
) -> list[Submission]:
    """Reads the images in a JSON text; whatever else it holds becomes no object.

    Args:
        text: ``{"instances": [{"b64": "…"}, …]}``.
        most: of the images.
        options: of their explanations, beside those in the text; None of predictions.

    Returns:
        The images; one whose content cannot be had has its fault as its result.

    Raises:
        RequestError: there are none, or too many, or it is no such text.
    """
    if options is None:
        body = _decode_json(text, _Body)
    else:
        body = explained = _decode_json(text, _ExplanationBody)
        told = {"method": explained.method, "overlay": explained.overlay}
        options = {**options, **{name: value for name, value in told.items() if value is not None}}
    wish = _wish(options)
    if body.inputs:
        raise NotOfferedError(f"KServe's v2 protocol is not offered; {INSTANCES}")
    listed = _decode_json(body.instances or EMPTY_LIST, _list_of(most + 1))
    instances = [element for element in msgspec.structs.astuple(listed) if element]
    if not instances:
        raise RequestError(f"the JSON holds no list of instances; {INSTANCES}")
    _check_count(len(instances), most)
    return [_instance(instance, wish) for instance in instances]


def _instance(text: Raw, wish: Wish | None) -> Submission:
    try:
        return Submission(_decode_base64(_decode_json(text, _Instance).b64), wish=wish)
    except RequestError as error:
        return Submission(result=error)


@cache
def _list_of(length: int) -> type[Struct]:
    """A list whose first elements are kept as their text, and the others passed over."""
    fields = [(f"element{index}", Raw, Raw()) for index in range(length)]
    return msgspec.defstruct("Elements", fields, array_like=True)


def _decode_json(text: Bytes | memoryview | Raw, kind: type[Decoded]) -> Decoded:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"not the JSON that is read here ({error}); {INSTANCES}") from error


def _decode_base64(text: str) -> bytes:
    """Decodes base64 as it is met with: wrapped, URL-safe, without its padding, in a data: URI.

    Raises:
        InvalidBase64Error: it is none of these.
    """
    if scheme := DATA_URI.match(text):
        text = text[scheme.end() :]
        for code, sign in QUOTED:
            text = text.replace(code, sign).replace(code.lower(), sign)
    try:
        data = text.encode("ascii").translate(STANDARD_ALPHABET, string.whitespace.encode())
        return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except ValueError as error:
        raise InvalidBase64Error(f"b64 is not base64 ({_reason(error)})") from error


def _reason(error: ValueError) -> str:
    """Without the text, which a UnicodeEncodeError quotes."""
    return error.reason if isinstance(error, UnicodeEncodeError) else str(error)


def form_answer(
    verdicts: Sequence[Verdict | DetectorError],
    detector: Mapping[str, str | float | None],
    *,
    listed_as: str | None = None,
) -> Answer:
    """Writes the answer to a request.

    Args:
        verdicts: one for each of its images, in order.
        detector: short form of the card, part of every verdict.
        listed_as: what KServe's v1 protocol calls the list that it wants; None of another protocol.
    """
    body: object
    if len(verdicts) == 1 and listed_as is None:
        body = _entry(verdicts[0], detector)
    else:
        entries = [_entry(verdict, detector) | _own_status(verdict) for verdict in verdicts]
        body = entries if listed_as is None else {listed_as: entries}
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
