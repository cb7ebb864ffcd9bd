"""A list of images as programs write it in, the names in it out."""

import codecs
from pathlib import Path

from deepfake_tools.files import read_regular

BYTE_ORDER_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
"""Of UTF-16, which Windows' PowerShell writes."""

CONTROLS = frozenset(map(chr, [*range(32), 127])) - frozenset("\t\f\r\n")
"""Characters that no list holds."""


class ListError(Exception):
    """The file is no list; the message says why and what to do."""


def read_list(file: str | Path) -> list[str]:
    """Reads the names in a list: one a line, or, as ``find -print0`` has it, NULs between them.

    Args:
        file: In UTF-8, with or without a byte-order mark, or in UTF-16 with one. A name that is not
            UTF-8 keeps its bytes.

    Raises:
        ListError: It is a binary file, or UTF-16 that ends within a character.
        OSError: It cannot be read, or is no regular file.
    """
    text = _decoded(read_regular(file))
    if "\0" in text:
        # Names between NULs may hold line breaks, and blanks at their ends.
        found = text.removesuffix("\0").split("\0")
    else:
        found = [line.strip() for line in text.split("\n") if line.strip()]
    if not all(found) or any(char in CONTROLS for name in found for char in name):
        raise ListError(
            "it holds control characters, as a binary file does: a list is text in UTF-8, one "
            "image, folder or pattern a line"
        )
    return found


def _decoded(data: bytes) -> str:
    if not data.startswith(BYTE_ORDER_MARKS):
        if data.count(b"\0") * 3 > len(data):
            raise ListError("it is in UTF-16 or UTF-32, or a binary file: save it as UTF-8")
        return data.decode("utf-8-sig", errors="surrogateescape")
    try:
        return data.decode("utf-16")
    except UnicodeDecodeError as error:
        raise ListError(
            f"it begins as UTF-16 and is none ({error.reason}): save it as UTF-8"
        ) from error
