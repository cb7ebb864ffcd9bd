"""A file of somebody else's in, its JSON object out, or why there is none."""

import json
from pathlib import Path
from typing import Any

from deepfake_tools.mistaken import START_BYTES, what_instead

MAX_BYTES = 16 << 20
"""Settings of a model take some kilobytes."""


def read_json_object(path: Path) -> dict[str, Any]:
    """Reads a file that may hold anything.

    Raises:
        OSError: It cannot be read.
        ValueError: It holds no JSON object, or one that is nested too deeply or too large.
    """
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES} bytes")
    if meaning := what_instead(content[:START_BYTES]):
        raise ValueError(f"it is {meaning}")
    try:
        value = json.loads(content)
    except RecursionError as error:
        raise ValueError("its JSON is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("it holds no JSON object")
    return value
