"""Labelled images in, their features out; those that were ever computed come from the cache."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from clip_deepfake.detector import Submission
from clip_deepfake.engines import Features

from deepfake_tools.files import read_regular
from deepfake_tools.training.dataset import LabelledImage
from deepfake_tools.training.extractor import Extractor
from deepfake_tools.training.feature_cache import FeatureCache

BATCH = 32
"""Images in one pass, and the most work that an interruption loses."""


@dataclass(frozen=True)
class Broken:
    """An image that cannot be judged, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class FeatureTable:
    """Features of the images that could be read.

    Attributes:
        images: in the order given.
        digests: SHA-256 of each image's file.
        features: float32 (images, feature size).
        broken: the images that could not be read.
        computed: how many features did not come from the cache.
    """

    images: list[LabelledImage]
    digests: list[bytes]
    features: Features
    broken: list[Broken]
    computed: int


def extract(
    images: Sequence[LabelledImage],
    extractor: Extractor,
    cache: FeatureCache,
    report: Callable[[int], None],
) -> FeatureTable:
    """Computes what is not in the cache, and puts it there batch by batch.

    Args:
        images: to compute features of.
        extractor: computes them.
        cache: of the extractor's key.
        report: told, after each batch, how many images are done.
    """
    known: list[LabelledImage] = []
    digests: list[bytes] = []
    broken: list[Broken] = []
    computed = 0
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        files = [_read(image.path) for image in batch]
        missing = {file.digest: file.data for file in files if file.digest not in cache}
        faults = _compute(missing, extractor, cache)
        computed += len(missing) - len(faults)
        for image, file in zip(batch, files, strict=True):
            fault = file.fault or faults.get(file.digest)
            if fault:
                broken.append(Broken(image.path, fault))
            else:
                known.append(image)
                digests.append(file.digest)
        report(start + len(batch))
    return FeatureTable(known, digests, cache.table(digests), broken, computed)


@dataclass(frozen=True)
class _File:
    data: bytes
    digest: bytes
    fault: str


def _read(path: Path) -> _File:
    try:
        data, fault = read_regular(path), ""
    except OSError as error:
        data, fault = b"", f"it cannot be read: {error.strerror}"
    return _File(data, hashlib.sha256(data).digest(), fault)


def _compute(
    images: Mapping[bytes, bytes], extractor: Extractor, cache: FeatureCache
) -> dict[bytes, str]:
    """Caches the features of images, and returns the reasons for those that have none."""
    prepared = extractor.preparer.prepare([Submission(data) for data in images.values()])
    faults: dict[bytes, str] = {}
    pixels = {}
    for digest, item in zip(images, prepared, strict=True):
        if item.result is not None:
            faults[digest] = str(item.result)
        else:
            # One face, the largest, or the whole image: training asks for no more.
            (pixels[digest],) = item.pictures
    if pixels:
        cache.add(list(pixels), extractor.engine.features(np.stack(list(pixels.values()))))
    return faults
