"""A multipart form's headers and what arrived of it in, a refusal where parts of it were lost out.

A server that hands on a form's parts by their names hands on one of each name.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from clip_deepfake.errors import LostPartsError

MOST_PART_HEADERS = 512
"""Bytes of the headers of a part, beside its name: mostly those of a file's name, 255 at most."""

BOUNDARY = re.compile(r'multipart/[^;]*;.*\bboundary="?([^";]*)', re.IGNORECASE)


@dataclass(frozen=True)
class Form:
    """A form as the headers of its request tell of it.

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
