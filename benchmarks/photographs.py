"""Photographs in, the images of a benchmark out: a folder's own, or JPEGs made on the spot."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from clip_deepfake.card import Limits
from clip_deepfake.images import RGB, decode

from benchmarks.measurements import BenchmarkError

WIDTH, HEIGHT = 640, 480
QUALITY = 90
NOISE = 2.0
"""Standard deviation of a camera's noise, of 255; without it JPEGs of enlarged parts are small."""

MOST_IMAGES = 64
"""More only take memory: no answer is remembered from one request to the next."""

SUFFIXES = (".jpg", ".jpeg")


def find_images(folder: Path) -> list[Path]:
    """Returns the first JPEGs of a folder.

    Raises:
        BenchmarkError: There is none.
    """
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise BenchmarkError(f"{folder} holds no JPEG (*.jpg, *.jpeg)")
    return [path.resolve() for path in found[:MOST_IMAGES]]


def write_images(photographs: Sequence[Path], folder: Path, count: int) -> list[Path]:
    """Writes 640x480 JPEGs: parts of photographs, some mirrored, with a camera's noise.

    Args:
        photographs: To cut from.
        folder: Where to; it is made.
        count: How many.

    Returns:
        The files; equal arguments give equal ones.
    """
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    sources = [decode(path.read_bytes(), Limits().max_pixels) for path in photographs]
    paths = [folder / f"{number:03}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        image = cv2.cvtColor(_part(sources[number % len(sources)], rng), cv2.COLOR_RGB2BGR)
        _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        path.write_bytes(encoded.tobytes())
    return paths


def _part(image: RGB, rng: np.random.Generator) -> RGB:
    height, width = image.shape[:2]
    scale = rng.uniform(0.6, 1.0) * min(width / WIDTH, height / HEIGHT)
    columns, rows = int(WIDTH * scale), int(HEIGHT * scale)
    left, top = rng.integers(width - columns + 1), rng.integers(height - rows + 1)
    part = image[top : top + rows, left : left + columns]
    if rng.random() < 0.5:
        part = part[:, ::-1]
    enlarged = cv2.resize(part, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    noisy = enlarged + rng.normal(0, NOISE, enlarged.shape)
    whole: RGB = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    return whole
