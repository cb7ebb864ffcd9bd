"""KServe's Open Inference Protocol v2: images out of a tensor, verdicts into tensors.

As https://github.com/kserve/open-inference-protocol has it. In binary form, which is Triton's
extension, JSON is followed by the tensors that it tells of, each as it is; a text, or a file's
content, behind its length in four bytes.
"""

import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from msgspec import Raw, Struct

from clip_deepfake.errors import DetectorError, RequestError, answer_status, check_count
from clip_deepfake.formats import Bytes
from clip_deepfake.json_text import decode_base64, decode_elements, decode_json, is_given
from clip_deepfake.questions import Answer
from clip_deepfake.tensors import (
    ERROR,
    FAKE_PROBABILITY,
    HEADER_LENGTH,
    IMAGE,
    LABEL,
    OUTPUTS,
    VERDICT,
    Tensor,
)
from clip_deepfake.verdicts import Verdict, to_fields

REMEDY = (
    f'send {{"inputs": [{{"name": "{IMAGE.name}", "datatype": "{IMAGE.datatype}", "shape": [1], '
    '"data": ["base64 of the image file"]}]}'
)
OUTPUT_REMEDY = (
    'say which outputs you want as {"outputs": [{"name": "…", "parameters": {"binary_data": '
    f"false}}}}]}}, of {', '.join(output.name for output in OUTPUTS)}; without, you get them all"
)

MOST_QUOTED = 40
"""Characters of a value that an error shows."""

MOST_ID = 1000
"""Characters of a request's own name, which comes back with its answer."""

LENGTH_BYTES = 4

Value = float | str | None
Result = Verdict | DetectorError
Parameters = TypeVar("Parameters")


class TensorFields(Struct):
    """What a body of this protocol has; Raw is its text, which nothing is made of."""

    inputs: Raw = Raw()
    outputs: Raw = Raw()
    id: Raw = Raw()
    parameters: Raw = Raw()


class _Parameters(Struct):
    """Of a request; others are none of ours."""

    binary_data_output: bool = False
    method: str | None = None
    overlay: str | None = None


class _Input(Struct):
    name: str
    datatype: str
    shape: Raw
    data: Raw = Raw()
    parameters: Raw = Raw()


class _InputParameters(Struct):
    binary_data_size: int | None = None


class _Shape(Struct, array_like=True, forbid_unknown_fields=True):
    images: int
    texts: int = 1


class _Row(Struct, array_like=True, forbid_unknown_fields=True):
    """An element of a tensor of two dimensions."""

    b64: str


class _OutputParameters(Struct, forbid_unknown_fields=True):
    """Of an output; another one would change what it is, as `classification` does."""

    binary_data: bool | None = None


class _Output(Struct):
    name: str
    parameters: _OutputParameters | None = None


@dataclass(frozen=True)
class WantedOutput:
    """A tensor of an answer, and whether it follows the JSON in binary form."""

    tensor: Tensor
    binary: bool = False


@dataclass(frozen=True)
class TensorReply:
    """How a request of this protocol wants to be answered.

    Attributes:
        model: served name.
        id: the request's own name; None where it has none.
        outputs: of its images, in the order in which they were asked for.
    """

    model: str
    id: str | None = None
    outputs: Sequence[WantedOutput] = tuple(WantedOutput(tensor) for tensor in OUTPUTS)

    def form(self, results: Sequence[Result], detector: Mapping[str, str | float | None]) -> Answer:
        """Writes the answer; without any verdict it is the protocol's for a failed request.

        Args:
            results: one for each image, in order.
            detector: short form of the card.
        """
        errors = [result for result in results if isinstance(result, DetectorError)]
        if len(errors) == len(results):
            return Answer(answer_status(results), json.dumps({"error": _failure(errors)}))
        outputs, blocks = [], list[bytes]()
        for wanted in self.outputs:
            entry, block = _written(wanted, results)
            outputs.append(entry)
            blocks.append(block)
        known = {name: value for name, value in detector.items() if value is not None}
        fields = {
            "model_name": self.model,
            "model_version": known["version"],
            **({} if self.id is None else {"id": self.id}),
            "parameters": known,
            "outputs": outputs,
        }
        text = json.dumps(fields, allow_nan=False)
        if any(wanted.binary for wanted in self.outputs):
            return _binary_answer(text.encode(), blocks)
        return Answer(200, text)


def _written(wanted: WantedOutput, results: Sequence[Result]) -> tuple[dict[str, object], bytes]:
    """An output as the JSON has it, and what of it follows the JSON."""
    values = [COLUMNS[wanted.tensor](result) for result in results]
    entry: dict[str, object] = {
        "name": wanted.tensor.name,
        "datatype": wanted.tensor.datatype,
        "shape": [len(results)],
    }
    if not wanted.binary:
        return entry | {"data": values}, b""
    block = b"".join(map(_packed, values))
    return entry | {"parameters": {"binary_data_size": len(block)}}, block


def _failure(errors: Sequence[DetectorError]) -> str:
    """Why a request has no verdict at all, in one text, as the protocol wants it."""
    texts = [_error_text(error) for error in errors]
    if len(set(texts)) == 1:
        return texts[0]
    return "; ".join(f"image {index}: {text}" for index, text in enumerate(texts))


def _error_text(error: DetectorError) -> str:
    return f"{error.code}: {error}"


def _binary_answer(text: bytes, blocks: Sequence[bytes]) -> Answer:
    headers = {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(text))}
    return Answer(200, b"".join([text, *blocks]), headers)


def _packed(value: Value) -> bytes:
    if isinstance(value, str):
        content = value.encode()
        return len(content).to_bytes(LENGTH_BYTES, "little") + content
    return struct.pack("<d", math.nan if value is None else value)


def _of_verdict(read: Callable[[Verdict], Value], otherwise: Value) -> Callable[[Result], Value]:
    return lambda result: read(result) if isinstance(result, Verdict) else otherwise


COLUMNS: Mapping[Tensor, Callable[[Result], Value]] = {
    FAKE_PROBABILITY: _of_verdict(lambda verdict: verdict.fake_probability, None),
    LABEL: _of_verdict(lambda verdict: verdict.label, ""),
    ERROR: lambda result: _error_text(result) if isinstance(result, DetectorError) else "",
    VERDICT: _of_verdict(lambda verdict: json.dumps(to_fields(verdict), allow_nan=False), ""),
}
"""What each output says of an image."""


@dataclass(frozen=True)
class TensorRequest:
    """What a body of this protocol asks for.

    Attributes:
        contents: of the image files; one that cannot be had has its fault there.
        options: of an explanation, by name.
        reply: how it wants to be answered.
    """

    contents: Sequence[Bytes | DetectorError]
    options: Mapping[str, str]
    reply: TensorReply


def read_tensors(
    fields: TensorFields, rest: memoryview | None, model: str, most: int
) -> TensorRequest:
    """Reads a request; whatever else its JSON holds becomes no object.

    Args:
        fields: its JSON.
        rest: what follows the JSON; None where the request does not say where that ends.
        model: served name.
        most: of the images.

    Raises:
        RequestError: there are none, or too many, or it is no such request.
    """
    parameters = _decode_parameters(fields.parameters, _Parameters)
    told = {"method": parameters.method, "overlay": parameters.overlay}
    reply = TensorReply(
        model, _read_id(fields.id), _read_outputs(fields.outputs, parameters.binary_data_output)
    )
    return TensorRequest(
        _read_contents(fields.inputs, rest, most),
        {name: value for name, value in told.items() if value is not None},
        reply,
    )


def _decode_parameters(text: Raw, kind: type[Parameters]) -> Parameters:
    return decode_json(text if is_given(text) else b"{}", kind, REMEDY)


def _read_id(text: Raw) -> str | None:
    if not is_given(text):
        return None
    name = decode_json(text, str, 'send the "id" as a text')
    if len(name) > MOST_ID:
        raise RequestError(f"the id has {len(name)} characters; send one of {MOST_ID} at most")
    return name


def _read_outputs(text: Raw, binary: bool) -> tuple[WantedOutput, ...]:
    """Reads which outputs are wanted; all of them where that is not said."""
    offered = {output.name: output for output in OUTPUTS}
    listed = decode_elements(text, len(OUTPUTS) + 1, OUTPUT_REMEDY)
    if len(listed) > len(OUTPUTS):
        raise RequestError(f"more outputs than there are; {OUTPUT_REMEDY}")
    wanted = []
    for element in listed:
        output = decode_json(element, _Output, OUTPUT_REMEDY)
        if output.name not in offered:
            raise RequestError(f"there is no output {_quoted(output.name)}; {OUTPUT_REMEDY}")
        own = None if output.parameters is None else output.parameters.binary_data
        wanted.append(WantedOutput(offered[output.name], binary if own is None else own))
    return tuple(wanted) or tuple(WantedOutput(output, binary) for output in OUTPUTS)


def _read_contents(
    text: Raw, rest: memoryview | None, most: int
) -> Sequence[Bytes | DetectorError]:
    inputs = decode_elements(text, 2, REMEDY)
    if len(inputs) != 1:
        raise RequestError(f"{'several' if inputs else 'no'} input tensors; {REMEDY}")
    tensor = decode_json(inputs[0], _Input, REMEDY)
    if tensor.name != IMAGE.name:
        raise RequestError(f"there is no input {_quoted(tensor.name)}; {REMEDY}")
    if tensor.datatype != IMAGE.datatype:
        raise RequestError(f"the datatype {_quoted(tensor.datatype)} is not read here; {REMEDY}")
    count = _read_count(tensor.shape, most)
    size = _decode_parameters(tensor.parameters, _InputParameters).binary_data_size
    if size is not None:
        return _unpacked(rest, size, count)
    listed = decode_elements(tensor.data, count + 1, REMEDY)
    if len(listed) != count:
        found = f"more than {count}" if len(listed) > count else len(listed)
        raise RequestError(f"the shape says {count} images, the data holds {found}; {REMEDY}")
    return [_content(element) for element in listed]


def _read_count(text: Raw, most: int) -> int:
    """Reads how many images there are of a shape, [N] or [N, 1]."""
    remedy = f"the shape is [N] or [N, 1], of N images; {REMEDY}"
    shape = decode_json(text, _Shape, remedy)
    if shape.images < 1 or shape.texts != 1:
        raise RequestError(f"no shape is read here like {_quoted(bytes(text).decode())}; {remedy}")
    check_count(shape.images, most)
    return shape.images


def _content(element: Raw) -> Bytes | DetectorError:
    try:
        if bytes(memoryview(element)[:1]) == b"[":
            return decode_base64(decode_json(element, _Row, REMEDY).b64)
        return decode_base64(decode_json(element, str, REMEDY))
    except RequestError as error:
        return error


def _unpacked(rest: memoryview | None, size: int, count: int) -> list[Bytes]:
    """Takes files out of a tensor in binary form."""
    if rest is None:
        raise RequestError(
            f"binary_data_size is {size}, and no header {HEADER_LENGTH} says where the JSON ends; "
            "send it, or the image in base64 (tritonclient: binary_data=False)"
        )
    if size != len(rest):
        raise RequestError(f"binary_data_size is {size}, and {len(rest)} bytes follow the JSON")
    contents: list[Bytes] = []
    at = 0
    for _ in range(count):
        start = at + LENGTH_BYTES
        end = start + int.from_bytes(rest[at:start], "little")
        if end > len(rest):
            break
        contents.append(bytes(rest[start:end]))
        at = end
    if len(contents) < count or at != size:
        raise RequestError(
            f"the {size} bytes behind the JSON are not {count} images, each behind its length in "
            f"{LENGTH_BYTES} bytes, the lowest first"
        )
    return contents


def _quoted(text: str) -> str:
    return repr(text if len(text) <= MOST_QUOTED else text[:MOST_QUOTED] + "…")
