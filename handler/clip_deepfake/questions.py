"""What a server asks and is answered: requests and answers without the server's own types.

Nothing here needs a library: the server's handler imports it before it is known what is installed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from clip_deepfake.errors import LostPartsError
from clip_deepfake.tensors import HEADER_LENGTH

MOST_PART_HEADERS = 512
"""Bytes of the headers of a part, beside its name: mostly those of a file's name, 255 at most."""

EXPLANATION_HEADERS = {"x-explain-method": "method", "x-explain-overlay": "overlay"}
"""Of a request for an explanation whose body is an image: which option each of them is. TorchServe
keeps a query to itself."""

JSON_TYPE = "application/json"

BOUNDARY = re.compile(r'multipart/[^;]*;.*\bboundary="?([^";]*)', re.IGNORECASE)


@dataclass(frozen=True)
class Form:
    """A multipart form as the headers of its request tell of it.

    A server that hands on a form's parts by their names hands on one of each name.

    Attributes:
        length: of the whole body, in bytes.
        boundary: length of what stands between two parts, in bytes.
    """

    length: int
    boundary: int

    def check(self, parts: Mapping[str, bytes | bytearray]) -> None:
        """Makes sure that the form held no other parts.

        Args:
            parts: what arrived, by name.

        Raises:
            LostPartsError: they, and their headers, are shorter than the form.
        """
        between = self.boundary + len("\r\n--\r\n")
        content = sum(len(part) for part in parts.values())
        headers = sum(len(name.encode()) + MOST_PART_HEADERS for name in parts)
        if self.length > content + headers + (len(parts) + 1) * between:
            raise LostPartsError(
                f"{len(parts)} parts with {content} bytes arrived of a form of {self.length}: of "
                "several parts with one name only the last does; give each a name of its own"
            )


@dataclass(frozen=True)
class Question:
    """One request, as the server received it.

    Attributes:
        parts: its body, or its fields, by name; bytes, whatever their type.
        id: the server's name for it.
        form: that the parts arrived in; None where the body was none.
        describe: whether the worker is asked about itself.
        explain: whether an explanation is asked for.
        options: of the explanation, that headers told of, by name.
        kserve: whether it came by one of KServe's paths.
        json_length: where the JSON of a body in KServe's binary form ends, as a header says.
    """

    parts: Mapping[str, bytes | bytearray]
    id: str | None = None
    form: Form | None = None
    describe: bool = False
    explain: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    kserve: bool = False
    json_length: str | None = None

    @property
    def listed_as(self) -> str | None:
        """What KServe's v1 protocol calls the list of answers; None of another protocol."""
        if not self.kserve:
            return None
        return "explanations" if self.explain else "predictions"


@dataclass(frozen=True)
class Answer:
    """The answer to a question.

    Attributes:
        status: HTTP status; an error only when no image has a verdict.
        body: JSON text; with the tensors of KServe's binary form behind it, bytes.
        headers: the content type, and what else the answer says of itself.
    """

    status: int
    body: str | bytes
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": JSON_TYPE})

    @property
    def phrase(self) -> str:
        """The status in words."""
        return HTTPStatus(self.status).phrase


def read_question(
    parts: Mapping[str, bytes | bytearray], headers: Mapping[str, object], id: str | None = None
) -> Question:
    """Tells by TorchServe's headers what is asked for.

    To those of the client TorchServe adds its own: ``explain`` by every path but the oldest,
    ``url_path`` by all of these but KServe's, ``describe`` where its management API is asked about
    a worker. A client may send each of them as well, and then TorchServe's stands.

    Args:
        parts: the request's body, or its fields.
        headers: of the request; of a part that has a name of its own, what is known of it.
        id: TorchServe's name for the request.
    """
    told = {name: value for name, value in headers.items() if isinstance(value, str)}
    by_lower = {name.lower(): value for name, value in told.items()}
    return Question(
        parts,
        id=id,
        form=read_form(by_lower),
        # The management API's question has no body, not even an empty one; a client's would need a
        # form without parts, by one of the oldest paths.
        describe=told.get("describe") == "True"
        and not parts
        and "explain" not in told
        and "content-type" not in by_lower,
        explain=told.get("explain") == "True",
        options={
            option: by_lower[header]
            for header, option in EXPLANATION_HEADERS.items()
            if header in by_lower
        },
        kserve="explain" in told and "url_path" not in told,
        json_length=by_lower.get(HEADER_LENGTH.lower()),
    )


def read_form(headers: Mapping[str, str]) -> Form | None:
    """Reads a request's headers.

    Args:
        headers: by their names in lower case.

    Returns:
        The form, or None where the body is none, or its length is not told.
    """
    boundary = BOUNDARY.match(headers.get("content-type", "").strip())
    length = headers.get("content-length", "")
    # As long as a number of bytes ever is: Python refuses to read thousands of digits.
    if boundary is None or not re.fullmatch("[0-9]{1,15}", length):
        return None
    return Form(int(length), len(boundary[1].encode()))
