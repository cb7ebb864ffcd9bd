"""Features of labelled images in, what a head is fitted to out: each image once, and counted."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from clip_deepfake.card import DataHistory
from clip_deepfake.engines import Features

from deepfake_tools.labels import Label
from deepfake_tools.training.dataset import LabelledImage, TrainingError
from deepfake_tools.training.features import FeatureTable
from deepfake_tools.training.splits import Labels, Rows

FEWEST_IMAGES = 10
"""Of each class; of fewer there is nothing to hold out and to cross-validate with."""


@dataclass(frozen=True)
class TrainingSet:
    """Distinct images of both classes.

    Attributes:
        images: each content once.
        features: float32 (images, feature size).
        labels: 0 for real, 1 for fake.
        folders: that each image lies in.
        history: counts and fingerprint.
    """

    images: list[LabelledImage]
    features: Features
    labels: Labels
    folders: list[str]
    history: DataHistory

    def only(self, rows: Rows) -> "TrainingSet":
        """A part of them; the history is that of all."""
        return TrainingSet(
            [self.images[row] for row in rows],
            self.features[rows],
            self.labels[rows],
            [self.folders[row] for row in rows],
            self.history,
        )


def make_training_set(table: FeatureTable) -> TrainingSet:
    """Takes each content once: a copy on the other side of a split would give its answer away.

    Raises:
        TrainingError: when an image is labelled both ways, or there are too few of a class.
    """
    rows: dict[bytes, int] = {}
    for row, (digest, image) in enumerate(zip(table.digests, table.images, strict=True)):
        first = table.images[rows.setdefault(digest, row)]
        if first.label != image.label:
            raise TrainingError(
                f"{first.path} and {image.path} are the same image with different labels; "
                "remove one of them"
            )
    kept = list(rows.values())
    images = [table.images[row] for row in kept]
    labels = [image.label for image in images]
    require_both_classes(labels)
    folders = [str(image.path.parent) for image in images]
    lines = sorted(f"{d.hex()} {n}\n" for d, n in zip(rows, labels, strict=True))
    history = DataHistory(
        real=labels.count(0),
        fake=labels.count(1),
        broken=len(table.broken),
        repeated=len(table.images) - len(kept),
        folders=len(set(folders)),
        sha256=hashlib.sha256("".join(lines).encode()).hexdigest(),
    )
    labelled = np.array(labels, np.int64)
    return TrainingSet(images, table.features[kept], labelled, folders, history)


def require_both_classes(labels: Sequence[Label]) -> None:
    """Refuses what no detector can be made of.

    Raises:
        TrainingError: saying how many images of each class there are, and what is needed.
    """
    real, fake = labels.count(0), labels.count(1)
    if min(real, fake) >= FEWEST_IMAGES:
        return
    raise TrainingError(
        f"{real} real and {fake} fake images that can be read; at least {FEWEST_IMAGES} different "
        "ones of each are needed (some hundreds for a useful detector). Labels are read off the "
        "folders' names, read as words (real, original; fake, synthesis, manipulated and more: "
        "--help), or given with --labels FILE.csv"
    )
