"""Images to calibrate and to measure a detector with: a folder's, or fixed pictures."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from clip_deepfake.card import PictureSource
from clip_deepfake.detector import Preparer, Submission
from clip_deepfake.engines import Pixels
from clip_deepfake.loading import self_test_pixels

from deepfake_tools.image_files import find_images
from deepfake_tools.labels import Label, LabelError, folder_label
from deepfake_tools.packaging.hub import BuildError

FEWEST = 20
"""Images, of which int8's calibration takes half: fewer say nothing of how often labels agree."""

MOST_CALIBRATED = 300
"""NNCF's own choice: https://docs.openvino.ai, post-training quantisation, subset_size."""

MOST_MEASURED = 1000

FIXED = 8
"""Pictures: as many as a pass takes, and enough that not all are off by little at once."""

SEED = 0

AT_ONCE = 32
"""Files in memory."""

Item = tuple[tuple[Pixels, ...], Label | None]
"""An image's pictures, and its label."""


@dataclass(frozen=True)
class Sample:
    """Images as an engine takes them.

    Attributes:
        pixels: uint8 (images, side, side, 3); of an image with several faces, each.
        labels: of each, where its folder tells one.
        source: as a card has it.
        sha256: digest of the sorted SHA-256 of the files; of fixed pictures, of their bytes.
    """

    pixels: Pixels
    labels: tuple[Label | None, ...]
    source: PictureSource
    sha256: str


@dataclass(frozen=True)
class Calibration:
    """What a folder holds, in an order that was drawn.

    Attributes:
        items: what can be used, by the digest of its file.
        unused: how many images could not be read, or are others' copies.
    """

    items: dict[str, Item]
    unused: int

    def split(self) -> tuple[Sample, Sample]:
        """Images to take the ranges of activations from, and others to measure them on."""
        half = min(MOST_CALIBRATED, len(self.items) // 2)
        return self._sample(0, half), self._sample(half, len(self.items))

    def whole(self) -> Sample:
        """All of them, where none calibrates."""
        return self._sample(0, MOST_MEASURED)

    def _sample(self, start: int, end: int) -> Sample:
        pictures: list[npt.NDArray[np.uint8]] = []
        labels: list[Label | None] = []
        digests = list(self.items)[start:end]
        for digest in digests:
            own, label = self.items[digest]
            pictures += own
            labels += [label] * len(own)
        together = hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()
        return Sample(np.stack(pictures), tuple(labels), "calibration", together)


def read_calibration(folder: Path, preparer: Preparer) -> Calibration:
    """Reads and preprocesses images.

    Args:
        folder: images are looked for in it and below it, and a part of them is drawn.
        preparer: decodes, aligns and preprocesses as the worker will.

    Raises:
        BuildError: when there is no such folder, or it holds too few images.
    """
    if not folder.is_dir():
        raise BuildError(f"--calibration {folder} is no folder")
    paths = list(find_images(folder))
    random.Random(SEED).shuffle(paths)
    paths = paths[: MOST_CALIBRATED + MOST_MEASURED]
    usable = _read(paths, folder, preparer)
    if len(usable) < FEWEST:
        raise BuildError(
            f"--calibration {folder} holds {len(usable)} images that can be used, and at least "
            f"{FEWEST} are needed, better {2 * MOST_CALIBRATED}: images like those to be judged"
        )
    return Calibration(usable, len(paths) - len(usable))


def _read(paths: Sequence[Path], folder: Path, preparer: Preparer) -> dict[str, Item]:
    """What can be used, by the digest of its file, so that none stands on both sides."""
    usable: dict[str, Item] = {}
    for start in range(0, len(paths), AT_ONCE):
        some = paths[start : start + AT_ONCE]
        images = [Submission(path.read_bytes()) for path in some]
        for path, image in zip(some, preparer.prepare(images), strict=True):
            if image.result is None:
                digest = hashlib.sha256(image.data).hexdigest()
                usable.setdefault(digest, (image.pictures, _label(path, folder)))
    return usable


def _label(path: Path, folder: Path) -> Label | None:
    try:
        return folder_label(path, folder)
    except LabelError as error:
        raise BuildError(f"--calibration: {error}") from error


def fixed_sample(side: int) -> Sample:
    """The self-test's array, and pictures with structures of every size, the same everywhere.

    Each sums noise in cells of 1, 2, 4 and more pixels, so that its power falls with the square of
    the frequency, as that of photographs does (Field, "Relations between the statistics of natural
    images and the response properties of cortical cells", 1987). All is computed in integers, of
    a generator whose numbers NumPy keeps for good.

    Args:
        side: of the encoder's input, in pixels.
    """
    pictures = [_noise(side, SEED + number) for number in range(FIXED - 1)]
    pixels = np.concatenate([self_test_pixels(side), np.stack(pictures)])
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    return Sample(pixels, (None,) * FIXED, "fixed pictures", digest)


def _noise(side: int, seed: int) -> npt.NDArray[np.uint8]:
    """Noise of every size, uint8 (side, side, 3)."""
    generator = np.random.PCG64(seed)
    total, octaves = np.zeros((side, side, 3), np.int64), 0
    cell = 1
    while cell <= side:
        cells = -(-side // cell)
        drawn = generator.random_raw(cells * cells * 3) >> np.uint64(56)
        grid = drawn.astype(np.int64).reshape(cells, cells, 3) - 128
        total += grid.repeat(cell, 0).repeat(cell, 1)[:side, :side]
        octaves += 1
        cell *= 2
    # Twice the contrast of a mean: as wide as a photograph's.
    return np.clip(128 + 2 * total // octaves, 0, 255).astype(np.uint8)
