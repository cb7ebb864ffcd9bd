"""Image files' headers: what a file says of its image, read before any decoder sees it.

Looked at is what bounds the work of the decoder, in the way in which the decoder reads it: where
it trusts a file, its time and memory grow with what the file says, not with what it holds.
"""

from dataclasses import dataclass
from typing import Literal

Bytes = bytes | bytearray

Reader = Literal["opencv", "libheif"]


@dataclass(frozen=True)
class Header:
    """What a file says of its image.

    Attributes:
        width: in pixels, as stored.
        height: likewise.
        work: of decoding it, in pixels of a photograph, where that is more than width times height.
        inflated: most bytes that a PNG's pixels take before they are compressed, else None.
        end: where the pixels' data end.
        endings: what a decoder is given from there on; if no pixel is missing, the image is the
            same with each. Empty where the file's own ending will do.
        reader: what decodes it.
        one_colour_is_damage: whether a decoder makes one of pixels that it cannot read.
    """

    width: int
    height: int
    work: int = 0
    inflated: int | None = None
    end: int = 0
    endings: tuple[bytes, ...] = ()
    one_colour_is_damage: bool = False
    reader: Reader = "opencv"

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.width * self.height

    @property
    def cost(self) -> int:
        """Pixels of a photograph that take as long to decode, and no fewer than it has."""
        return max(self.work, self.pixels)
