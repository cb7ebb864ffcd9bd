"""JSON that strangers send, read without objects being made of what nobody looks for; base64."""

import base64
import codecs
import re
import string
from functools import cache
from typing import TypeVar

import msgspec
from msgspec import Raw, Struct

from clip_deepfake.errors import InvalidBase64Error, RequestError
from clip_deepfake.formats import Bytes

JSON_START = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*([{\[])")
"""No image file begins like this. The first three bytes are a byte-order mark."""

DATA_URI = re.compile(r"\s*data:[^,]{0,256};base64,", re.IGNORECASE)
QUOTED = (("%2B", "+"), ("%2F", "/"), ("%3D", "="))
"""As a URI may have these."""

STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")
"""Of base64, from the one that is safe in URLs."""

MOST_REASON = 200
"""Characters of what is wrong with a text, which may quote it."""

Text = Bytes | memoryview | Raw
"""Of JSON, in UTF-8."""

Decoded = TypeVar("Decoded")


def find_json(part: Bytes) -> Bytes | memoryview | None:
    """A part's JSON without what may stand before it; None where it is none, but an image."""
    if part[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        try:
            part = part.decode("utf-16").encode()
        except UnicodeError:
            return None
    found = JSON_START.match(part)
    return None if found is None else memoryview(part)[found.start(1) :]


def decode_json(text: Text, kind: type[Decoded], remedy: str) -> Decoded:
    """Reads JSON as a type; what that has no field for becomes no object.

    Args:
        text: of any length and depth.
        kind: what it must be.
        remedy: what to send instead.

    Raises:
        RequestError: it is something else.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        reason = str(error)[:MOST_REASON]
        raise RequestError(f"not the JSON that is read here ({reason}); {remedy}") from error


def is_given(text: Raw) -> bool:
    """Whether a field is there; clients' libraries write null where it has no value."""
    return bool(text) and bytes(memoryview(text)[:5]) != b"null"


def decode_elements(text: Raw, most: int, remedy: str) -> list[Raw]:
    """Reads the elements of a list as their texts.

    Args:
        text: of the list; no field is read as an empty one.
        most: of the elements; those behind are passed over.
        remedy: what to send instead.

    Raises:
        RequestError: it is no list.
    """
    listed = decode_json(text if is_given(text) else b"[]", _list_of(most), remedy)
    return [element for element in msgspec.structs.astuple(listed) if element]


@cache
def _list_of(length: int) -> type[Struct]:
    """A list whose first elements are kept as their text, and the others passed over."""
    fields = [(f"element{index}", Raw, Raw()) for index in range(length)]
    return msgspec.defstruct("Elements", fields, array_like=True)


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
