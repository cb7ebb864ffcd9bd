"""A part of a request in, the images of its JSON out: bounded before anything is made of it."""

import base64
import codecs
import re
import string
from functools import cache
from typing import TypeVar

import msgspec
from msgspec import Raw, Struct

from clip_deepfake.errors import (
    DetectorError,
    InvalidBase64Error,
    NotOfferedError,
    RequestError,
    TooManyImagesError,
)

Bytes = bytes | bytearray

INSTANCES = 'send {"instances": [{"b64": "…"}, …]}, or the image file itself'

JSON_START = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*([{\[])")
"""No image file begins like this. The first three bytes are a byte-order mark."""

DATA_URI = re.compile(r"\s*data:[^,]{0,256};base64,", re.IGNORECASE)
QUOTED = (("%2B", "+"), ("%2F", "/"), ("%3D", "="))
"""As a URI may have these."""

STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")
"""Of base64, from the one that is safe in URLs."""

EMPTY_LIST = Raw(b"[]")

Decoded = TypeVar("Decoded", bound=Struct)


class _Body(Struct):
    """What is looked for in a body of JSON; Raw is its text, which nothing is made of."""

    instances: Raw = Raw()
    inputs: Raw = Raw()


class _Instance(Struct):
    b64: str


def check_count(images: int, most: int) -> None:
    """Makes sure that a request holds no more images than it may.

    Raises:
        TooManyImagesError: it does.
    """
    if images > most:
        raise TooManyImagesError(
            f"more than {most} images in one request, which is the limit; send several"
        )


def json_text(part: Bytes) -> Bytes | memoryview | None:
    """A part's JSON without what may stand before it; None where it is none, but an image."""
    if part[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        try:
            part = part.decode("utf-16").encode()
        except UnicodeError:
            return None
    found = JSON_START.match(part)
    return None if found is None else memoryview(part)[found.start(1) :]


def read_instances(text: Bytes | memoryview, most: int) -> list[Bytes | DetectorError]:
    """Reads the images in a JSON text; whatever else it holds becomes no object.

    Args:
        text: ``{"instances": [{"b64": "…"}, …]}``.
        most: of the images.

    Returns:
        Contents of image files; the fault of one that has none stands in its place.

    Raises:
        RequestError: there are none, or too many, or it is no such text.
    """
    body = _decode_json(text, _Body)
    if body.inputs:
        raise NotOfferedError(f"KServe's v2 protocol is not offered; {INSTANCES}")
    listed = _decode_json(body.instances or EMPTY_LIST, _list_of(most + 1))
    instances = [element for element in msgspec.structs.astuple(listed) if element]
    if not instances:
        raise RequestError(f"the JSON holds no list of instances; {INSTANCES}")
    check_count(len(instances), most)
    return [_instance(instance) for instance in instances]


def _instance(text: Raw) -> Bytes | DetectorError:
    try:
        return decode_base64(_decode_json(text, _Instance).b64)
    except RequestError as error:
        return error


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


def decode_base64(text: str) -> bytes:
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
