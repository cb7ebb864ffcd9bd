"""Files that somebody else made: JSON within bounds, and what people have instead of weights."""

import json
from pathlib import Path
from typing import Any

MAX_BYTES = 16 << 20
"""Settings of a model take some kilobytes."""

START_BYTES = 64

SIGNATURES = (
    (b"version https://git-lfs", "a Git LFS pointer to it: fetch the content with git lfs pull"),
    (b"<", "a web page, saved in place of the download: fetch the file itself"),
    (b"BZh", "packed with bzip2: unpack it with bunzip2, and give what comes out"),
    (b"\x1f\x8b", "packed with gzip: unpack it with gunzip, and give what comes out"),
    (b"\xfd7zXZ\x00", "packed with xz: unpack it with unxz, and give what comes out"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd: unpack it with unzstd, and give what comes out"),
    (b"7z\xbc\xaf\x27\x1c", "packed with 7-Zip: unpack it, and give what comes out"),
    (b"Rar!", "packed with RAR: unpack it, and give what comes out"),
)


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


def what_instead(start: bytes) -> str | None:
    """Says what people have instead of a file, and what to do.

    Args:
        start: The file's first bytes, ``START_BYTES`` or fewer.
    """
    for signature, meaning in SIGNATURES:
        if start.startswith(signature):
            return meaning
    return None


def file_instead(path: Path) -> str | None:
    """The same for a file.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return what_instead(file.read(START_BYTES))
