"""Reads the size that a stream of HEVC says its pictures have (ITU-T H.265, 7.3.2.2)."""

from clip_deepfake.errors import HeaderError
from clip_deepfake.formats import Bytes

SEQUENCE = 33
"""The kind of unit that says it: a sequence parameter set."""

PROFILE_BITS, LEVEL_BITS = 88, 8
LONGEST_NUMBER = 32
SEPARATE_PLANES = 3
"""The chroma format that has a bit more."""


def unit_kind(unit: Bytes) -> int:
    """Returns the kind of a unit, given its beginning; -1 of an empty one."""
    return unit[0] >> 1 & 0x3F if unit else -1


def sequence_size(unit: Bytes) -> tuple[int, int]:
    """Returns the width and height of the coded pictures, in pixels.

    Args:
        unit: the beginning of a sequence parameter set, header included.

    Raises:
        HeaderError: it ends too early, or says nonsense.
    """
    bits = _Bits(bytes(unit[2:]).replace(b"\0\0\3", b"\0\0"))
    bits.skip(4)
    layers = bits.number(3)
    bits.skip(1 + PROFILE_BITS + LEVEL_BITS)
    present = [(bits.number(1), bits.number(1)) for _ in range(layers)]
    if layers:
        bits.skip(2 * (8 - layers))
    for has_profile, has_level in present:
        bits.skip(PROFILE_BITS * has_profile + LEVEL_BITS * has_level)
    bits.golomb()
    if bits.golomb() == SEPARATE_PLANES:
        bits.skip(1)
    return bits.golomb(), bits.golomb()


class _Bits:
    """Reads a unit bit by bit."""

    def __init__(self, data: bytes) -> None:
        self._left = len(data) * 8
        self._value = int.from_bytes(data)

    def number(self, count: int) -> int:
        """Returns a number of so many bits."""
        if count > self._left:
            raise HeaderError("its stream ends within its parameters")
        self._left -= count
        return self._value >> self._left & (1 << count) - 1

    def skip(self, count: int) -> None:
        """Passes over so many bits."""
        self.number(count)

    def golomb(self) -> int:
        """Returns a number in Exponential-Golomb code (9.2)."""
        zeros = 0
        while not self.number(1):
            zeros += 1
            if zeros > LONGEST_NUMBER:
                raise HeaderError("its stream has a number of more than 32 bits")
        return (1 << zeros) - 1 + self.number(zeros)
