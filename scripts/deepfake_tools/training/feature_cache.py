"""Features on disk, by the SHA-256 of the image and all that they are computed with."""

import fcntl
import hashlib
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from clip_deepfake.card import Feature
from clip_deepfake.engines import Features
from clip_deepfake.faces import FaceAlignment
from clip_deepfake.preprocessing import Preprocessing
from msgspec import Struct

Vector = npt.NDArray[np.float32]
"""One image's feature, float32 (feature size,)."""


class FeatureKey(Struct, frozen=True):
    """What, besides the image, decides a feature's numbers.

    Attributes:
        encoder_sha256: ``head_file.tower_digest`` of the encoder.
        libraries: version of each that decodes, scales or computes, by name.
        faces: how faces are found and cut out first; None for images as they are.
    """

    encoder_sha256: str
    preprocessing: Preprocessing
    feature: Feature
    libraries: dict[str, str]
    faces: FaceAlignment | None = None


class FeatureCache:
    """A file of records, each an image's digest, its feature and a checksum over both.

    Records are only ever appended, many in one write, so whatever ends the process leaves the
    earlier ones whole. A record that is not whole is as good as absent.
    """

    def __init__(self, folder: Path, key: FeatureKey, width: int) -> None:
        """Opens the file of a key, which is made when the first features come.

        Args:
            folder: holds a file for each key.
            key: all that the features depend on, but for the image.
            width: of a feature.
        """
        name = hashlib.sha256(msgspec.json.encode(key)).hexdigest()[:32]
        self.path = folder / f"{name}.features"
        self._width = width
        self._record = np.dtype([("image", "V32"), ("feature", "<f4", (width,)), ("check", "<u4")])
        self._features = dict(self._read())

    def __contains__(self, image: bytes) -> bool:
        """Whether the image with this SHA-256 has a feature here."""
        return image in self._features

    def table(self, images: Sequence[bytes]) -> Features:
        """Returns the features of images that have one, float32 (images, feature size)."""
        features = np.empty((len(images), self._width), np.float32)
        for row, image in enumerate(images):
            features[row] = self._features[image]
        return features

    def add(self, images: Sequence[bytes], features: Features) -> None:
        """Keeps features, on disk before it returns.

        Args:
            images: SHA-256 of each image.
            features: float32 (images, feature size).
        """
        records = np.empty(len(images), self._record)
        for record, image, feature in zip(records, images, features, strict=True):
            record["image"], record["feature"] = image, feature
            record["check"] = _checksum(record.tobytes())
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            # Another run may be writing as well; and an interrupted write left a part of a record.
            fcntl.flock(file, fcntl.LOCK_EX)
            size = os.fstat(file.fileno()).st_size
            file.truncate(size - size % self._record.itemsize)
            file.write(records.tobytes())
        self._features.update(zip(images, features, strict=True))

    def _read(self) -> list[tuple[bytes, Vector]]:
        if not self.path.exists():
            return []
        whole = self.path.stat().st_size // self._record.itemsize
        records = np.fromfile(self.path, self._record, count=whole)
        return [
            (record["image"].tobytes(), record["feature"])
            for record in records
            if record["check"] == _checksum(record.tobytes())
        ]


def _checksum(record: bytes) -> int:
    """CRC-32 of all of a record but its last field, the checksum."""
    return zlib.crc32(record[:-4])
