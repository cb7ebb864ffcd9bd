"""Photographs in, damaged image files of nine formats out, the same ones for the same seed."""

import io
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tests.drills.lies import lie

WIDTH, HEIGHT = 160, 120
LONGEST = 65_535
"""The longest side that two bytes hold, and so the largest image that most lies make of these."""

MOST_FLIPS = 16
HEADER = 64
"""Bytes at the beginning in which sizes, counts and offsets stand."""

MOST_BYTES = 4
EXTREMES = (0x00, 0x01, 0x7F, 0x80, 0xFF)
"""Bytes that make numbers vanish, overflow, or change their sign."""


@dataclass(frozen=True)
class Format:
    """A way to write an image.

    Attributes:
        name: In words.
        kind: Pillow's name.
        mode: Pillow's mode of the pixels.
        options: Of Pillow's writer.
    """

    name: str
    kind: str
    mode: str = "RGB"
    options: tuple[tuple[str, object], ...] = ()


FORMATS = (
    Format("JPEG", "JPEG", options=(("quality", 90),)),
    Format("progressive JPEG", "JPEG", options=(("progressive", True),)),
    Format("CMYK JPEG", "JPEG", mode="CMYK"),
    Format("PNG", "PNG"),
    Format("WebP", "WEBP"),
    Format("BMP", "BMP"),
    Format("TIFF", "TIFF", options=(("compression", "tiff_lzw"),)),
    Format("BigTIFF", "TIFF", options=(("big_tiff", True),)),
    Format("GIF", "GIF", mode="P"),
)


@dataclass(frozen=True)
class Mutant:
    """A damaged file.

    Attributes:
        format: Of what it was.
        mutation: What was done to it.
        data: Its bytes.
    """

    format: str
    mutation: str
    data: bytes


def originals(photographs: Sequence[Path]) -> dict[str, list[bytes]]:
    """Writes each photograph, made small, in each format.

    Returns:
        Files by the name of their format.
    """
    pictures = [Image.open(path).convert("RGB").resize((WIDTH, HEIGHT)) for path in photographs]
    return {one.name: [_encode(picture, one) for picture in pictures] for one in FORMATS}


def widest() -> dict[str, bytes]:
    """Writes an ordinary image as wide as the widest that a lie makes, in each format that has it.

    Returns:
        Files by the name of their format.
    """
    picture = Image.new("RGB", (LONGEST, WIDTH), (9, 99, 199))
    # JPEG and WebP have no side of that length.
    return {one.name: _encode(picture, one) for one in FORMATS if one.kind not in ("JPEG", "WEBP")}


def _encode(picture: Image.Image, wanted: Format) -> bytes:
    buffer = io.BytesIO()
    picture.convert(wanted.mode).save(buffer, wanted.kind, **dict(wanted.options))
    return buffer.getvalue()


def mutants(files: Mapping[str, Sequence[bytes]], count: int, seed: int = 0) -> Iterator[Mutant]:
    """Damages files, each format and each kind of damage in turn.

    Args:
        files: By the name of their format.
        count: How many mutants.
        seed: Of the random choices.
    """
    chance = random.Random(seed)
    names = list(files)
    every = [data for some in files.values() for data in some]
    for number in range(count):
        name = names[number % len(names)]
        mutation = list(MUTATIONS)[number // len(names) % len(MUTATIONS)]
        data = chance.choice(files[name])
        yield Mutant(name, mutation, MUTATIONS[mutation](data, chance.choice(every), chance))


def _flip(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """Turns some bits over, anywhere."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, MOST_FLIPS)):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _truncate(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """Cuts the end off, up to all of it."""
    return data[: chance.randrange(len(data))]


def _splice(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """Joins the beginning of one file and the end of another, of any format."""
    return data[: chance.randrange(len(data))] + other[chance.randrange(len(other)) :]


def _overwrite(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """Puts extreme bytes at the beginning, whatever stands there."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, MOST_BYTES)):
        changed[chance.randrange(min(HEADER, len(changed)))] = chance.choice(EXTREMES)
    return bytes(changed)


def _lie(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """Makes sizes, lengths and markers false, and the checksums right."""
    return lie(data, chance)


MUTATIONS: dict[str, Callable[[bytes, bytes, random.Random], bytes]] = {
    "bits flipped": _flip,
    "cut short": _truncate,
    "spliced": _splice,
    "header bytes": _overwrite,
    "header lies": _lie,
}
