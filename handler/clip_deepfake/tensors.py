"""The tensors that a detector takes and gives by KServe's Open Inference Protocol v2.

Nothing here needs a library: the probe, which tells strangers of them, runs where no detector does.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Tensor:
    """A tensor of one value for each image of a request.

    Attributes:
        name: within a request or its answer.
        datatype: ``BYTES`` is text or a file's content, ``FP64`` a number.
    """

    name: str
    datatype: Literal["BYTES", "FP64"]


IMAGE = Tensor("image", "BYTES")
"""Files' contents: in JSON as base64, in binary form as they are."""

FAKE_PROBABILITY = Tensor("fake_probability", "FP64")
"""Null where an image has no verdict; in binary form NaN."""

LABEL = Tensor("label", "BYTES")
"""``REAL`` or ``FAKE``; empty where an image has no verdict."""

ERROR = Tensor("error", "BYTES")
"""Why an image has no verdict, its code and what to do; empty where it has one."""

VERDICT = Tensor("verdict", "BYTES")
"""JSON of all that is known of an image; empty where it has no verdict."""

OUTPUTS = (FAKE_PROBABILITY, LABEL, ERROR, VERDICT)
BINARY_EXTENSION = "binary_tensor_data"
"""Triton's name for tensors that follow the JSON as they are."""

HEADER_LENGTH = "Inference-Header-Content-Length"
"""The header by which a request or an answer in binary form says where its JSON ends."""
