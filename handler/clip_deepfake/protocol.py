"""Images out of what a server was sent, bounded; JSON answers out of verdicts.

One image is answered with one verdict, several with a list in their order. Under KServe's v1 path
the list stands in ``predictions``, as that protocol wants it, or in ``explanations``. A body with
tensors is KServe's v2 protocol by whatever path, and is answered in kind.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast, get_args

from msgspec import Raw, Struct

from clip_deepfake.detector import Submission
from clip_deepfake.errors import (
    DetectorError,
    EmptyImageError,
    RequestError,
    UnknownOptionError,
    answer_status,
    check_count,
)
from clip_deepfake.explaining import Wish
from clip_deepfake.formats import Bytes
from clip_deepfake.json_text import (
    decode_base64,
    decode_elements,
    decode_json,
    find_json,
    is_given,
)
from clip_deepfake.open_inference import (
    REMEDY,
    TensorFields,
    TensorReply,
    TensorRequest,
    read_tensors,
)
from clip_deepfake.questions import Answer, Question
from clip_deepfake.tensors import HEADER_LENGTH
from clip_deepfake.verdicts import Method, Verdict, to_fields

INSTANCES = 'send {"instances": [{"b64": "…"}, …]}, or the image file itself'

OPTIONS: Mapping[str, tuple[str, ...]] = {"method": get_args(Method), "overlay": ("png",)}
"""Of an explanation, and what each may be."""

MOST_OPTION = 40
"""Characters of an option, of which no more are looked at."""

Reply = Callable[[Sequence[Verdict | DetectorError], Mapping[str, str | float | None]], Answer]
"""Writes an answer of a request's results, one for each image, and the card's short form."""


@dataclass(frozen=True)
class Task:
    """What a question asks for.

    Attributes:
        images: that it holds; a fault of the whole request stands there as its only image's.
        reply: writes the answer in the form that it wants.
    """

    images: Sequence[Submission]
    reply: Reply


class _Body(TensorFields):
    """What is looked for in a body of JSON; Raw is its text, which nothing is made of."""

    instances: Raw = Raw()
    method: Raw = Raw()
    overlay: Raw = Raw()


class _Instance(Struct):
    b64: str


@dataclass(frozen=True)
class _Json:
    """A part that is JSON, and what follows that in KServe's binary form; None in any other."""

    fields: _Body
    rest: memoryview | None = None

    @property
    def is_tensors(self) -> bool:
        """Whether it is KServe's v2 protocol."""
        return bool(self.fields.inputs) or self.rest is not None


def read_task(question: Question, most: int, model: str) -> Task:
    """Finds out what a question asks for.

    Args:
        question: as the server received it.
        most: more images are refused.
        model: served name.
    """
    in_tensors = TensorReply(model).form
    reply: Reply = partial(form_answer, listed_as=question.listed_as)
    if question.json_length is not None:
        reply = in_tensors
    try:
        parts, options = _find_parts(question, most)
        bodies = [_read_part(part, question.json_length) for part in parts.values()]
        if any(isinstance(body, _Json) and body.is_tensors for body in bodies):
            reply = in_tensors
            request = _read_tensors(bodies, model, most)
            wish = _wish(options, request.options)
            images = [_submission(content, wish) for content in request.contents]
            reply = request.reply.form
        else:
            images = _read_images(bodies, most, options)
    except DetectorError as error:
        images = [Submission(result=error)]
    return Task(images, reply)


def _find_parts(
    question: Question, most: int
) -> tuple[Mapping[str, Bytes], Mapping[str, str] | None]:
    """Tells apart what may hold images, and the options of an explanation; None of a prediction."""
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
    check_count(len(parts), most)
    return parts, options


def _text(part: Bytes) -> str:
    return bytes(part[:MOST_OPTION]).decode(errors="replace")


def _read_part(part: Bytes, json_length: str | None) -> Bytes | _Json:
    if json_length is None:
        text = find_json(part)
        return part if text is None else _Json(decode_json(text, _Body, INSTANCES))
    # As long as a number of bytes ever is: Python refuses to read thousands of digits.
    if not re.fullmatch("[0-9]{1,15}", json_length) or int(json_length) > len(part):
        raise RequestError(
            f"{HEADER_LENGTH} is {json_length[:MOST_OPTION]!r}, which is no length within a body "
            f"of {len(part)} bytes; send that of the JSON, or JSON alone and no such header"
        )
    whole, end = memoryview(part), int(json_length)
    return _Json(decode_json(whole[:end], _Body, REMEDY), whole[end:])


def _read_tensors(bodies: Sequence[Bytes | _Json], model: str, most: int) -> TensorRequest:
    body, *others = bodies
    if others or not isinstance(body, _Json):
        raise RequestError(f"input tensors in a form of several parts; {REMEDY} as the whole body")
    return read_tensors(body.fields, body.rest, model, most)


def _read_images(
    bodies: Sequence[Bytes | _Json], most: int, options: Mapping[str, str] | None
) -> list[Submission]:
    images: list[Submission] = []
    for body in bodies:
        if isinstance(body, _Json):
            images += _read_instances(body.fields, most, options)
        else:
            images.append(Submission(body, wish=_wish(options)))
        check_count(len(images), most)
    return images


def _wish(options: Mapping[str, str] | None, told: Mapping[str, str] | None = None) -> Wish | None:
    """What an explanation is to be; None of a prediction.

    Args:
        options: of the request; None of a prediction.
        told: those in its body, which are nearer.

    Raises:
        UnknownOptionError: it is nothing that there is.
    """
    if options is None:
        return None
    wished = {**options, **(told or {})}
    for name, value in wished.items():
        if value not in OPTIONS[name]:
            raise UnknownOptionError(
                f"{name} {value[:MOST_OPTION]!r} is unknown; there is {', '.join(OPTIONS[name])}"
            )
    return Wish(cast(Method | None, wished.get("method")), overlay="overlay" in wished)


def _read_instances(body: _Body, most: int, options: Mapping[str, str] | None) -> list[Submission]:
    """Reads the images of KServe's v1 protocol; whatever else a body holds becomes no object.

    Args:
        body: ``{"instances": [{"b64": "…"}, …]}``.
        most: of the images.
        options: of their explanations, beside those in the body; None of predictions.

    Returns:
        The images; one whose content cannot be had has its fault as its result.

    Raises:
        RequestError: there are none, or too many, or it is no such body.
    """
    wish = None if options is None else _wish(options, _told(body))
    instances = decode_elements(body.instances, most + 1, INSTANCES)
    if not instances:
        raise RequestError(f"the JSON holds no list of instances; {INSTANCES}")
    check_count(len(instances), most)
    return [_submission(_instance(instance), wish) for instance in instances]


def _told(body: _Body) -> dict[str, str]:
    """The options that a body tells of."""
    texts = {"method": body.method, "overlay": body.overlay}
    return {
        name: decode_json(text, str, INSTANCES) for name, text in texts.items() if is_given(text)
    }


def _instance(text: Raw) -> Bytes | DetectorError:
    try:
        return decode_base64(decode_json(text, _Instance, INSTANCES).b64)
    except RequestError as error:
        return error


def _submission(content: Bytes | DetectorError, wish: Wish | None) -> Submission:
    if isinstance(content, DetectorError):
        return Submission(result=content)
    return Submission(content, wish=wish)


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
    return Answer(answer_status(verdicts), json.dumps(body, allow_nan=False))


def _entry(
    verdict: Verdict | DetectorError, detector: Mapping[str, str | float | None]
) -> dict[str, object]:
    if isinstance(verdict, DetectorError):
        return {"error": {"code": verdict.code, "message": str(verdict)}}
    return to_fields(verdict) | {"detector": detector}


def _own_status(verdict: Verdict | DetectorError) -> dict[str, object]:
    """What an error in a list adds, since the list's own status is that of its good entries."""
    return {"status": verdict.status} if isinstance(verdict, DetectorError) else {}
