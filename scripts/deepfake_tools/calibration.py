"""A folder in, images to calibrate an int8 detector with out, and others to measure it on."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from clip_deepfake.detector import Detector, Prepared
from clip_deepfake.engines import Pixels
from clip_deepfake.labels import Label, LabelError, folder_label

from deepfake_tools.dataset import find_images
from deepfake_tools.hub import BuildError

FEWEST = 20
"""Images, of which half calibrate: fewer say nothing of how often labels agree."""

MOST_CALIBRATED = 300
"""NNCF's own choice: https://docs.openvino.ai, post-training quantisation, subset_size."""

MOST_MEASURED = 1000

SEED = 0

AT_ONCE = 32
"""Files in memory."""

Item = tuple[Prepared, Label | None]


@dataclass(frozen=True)
class Sample:
    """Images as an engine takes them.

    Attributes:
        pixels: uint8 (images, side, side, 3); of an image with several faces, each.
        labels: of each, where its folder tells one.
    """

    pixels: Pixels
    labels: tuple[Label | None, ...]


@dataclass(frozen=True)
class Calibration:
    """What a folder holds.

    Attributes:
        calibrate: to take the ranges of the activations from.
        measure: images that calibration does not see.
        unused: how many images could not be read, or are others' copies.
        sha256: digest of the sorted SHA-256 of the files of both.
    """

    calibrate: Sample
    measure: Sample
    unused: int
    sha256: str


def read_calibration(folder: Path, detector: Detector) -> Calibration:
    """Reads and preprocesses images.

    Args:
        folder: images are looked for in it and below it, and a part of them is drawn.
        detector: decodes, aligns and preprocesses as the worker will.

    Raises:
        BuildError: when there is no such folder, or it holds too few images.
    """
    if not folder.is_dir():
        raise BuildError(f"--calibration {folder} is no folder")
    paths = list(find_images(folder))
    random.Random(SEED).shuffle(paths)
    paths = paths[: MOST_CALIBRATED + MOST_MEASURED]
    usable = _read(paths, folder, detector)
    if len(usable) < FEWEST:
        raise BuildError(
            f"--calibration {folder} holds {len(usable)} images that can be used, and int8 needs "
            f"at least {FEWEST}, better {2 * MOST_CALIBRATED}: images like those to be judged"
        )
    half = min(MOST_CALIBRATED, len(usable) // 2)
    items = list(usable.values())
    return Calibration(
        calibrate=_sample(items[:half]),
        measure=_sample(items[half:]),
        unused=len(paths) - len(usable),
        sha256=hashlib.sha256("\n".join(sorted(usable)).encode()).hexdigest(),
    )


def _read(paths: Sequence[Path], folder: Path, detector: Detector) -> dict[str, Item]:
    """What can be used, by the digest of its file, so that none stands on both sides."""
    usable: dict[str, Item] = {}
    for start in range(0, len(paths), AT_ONCE):
        some = paths[start : start + AT_ONCE]
        contents = [path.read_bytes() for path in some]
        for path, data, found in zip(some, contents, detector.prepare(contents), strict=True):
            if isinstance(found, Prepared):
                usable.setdefault(hashlib.sha256(data).hexdigest(), (found, _label(path, folder)))
    return usable


def _label(path: Path, folder: Path) -> Label | None:
    try:
        return folder_label(path, folder)
    except LabelError as error:
        raise BuildError(f"--calibration: {error}") from error


def _sample(items: Sequence[Item]) -> Sample:
    pictures: list[npt.NDArray[np.uint8]] = []
    labels: list[Label | None] = []
    for prepared, label in items:
        pictures += prepared.pixels
        labels += [label] * len(prepared.pixels)
    return Sample(np.stack(pictures), tuple(labels))
