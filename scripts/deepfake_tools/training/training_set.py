"""Features of labelled images in, what a head is fitted to out: each image once, and counted."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from clip_deepfake.card import DataHistory
from clip_deepfake.engines import Features

from deepfake_tools.labels import FAKE, REAL, Label
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
        groups: what each image belongs to, and must not be parted from: its folder, together with
            the folders of what its images were made into or of.
        history: counts and fingerprint.
    """

    images: list[LabelledImage]
    features: Features
    labels: Labels
    groups: list[str]
    history: DataHistory

    def only(self, rows: Rows) -> "TrainingSet":
        """A part of them; the history is that of all."""
        return TrainingSet(
            [self.images[row] for row in rows],
            self.features[rows],
            self.labels[rows],
            [self.groups[row] for row in rows],
            self.history,
        )


def make_training_set(table: FeatureTable) -> TrainingSet:
    """Takes each content once: a copy on the other side of a split would give its answer away.

    What real and fake videos have in common is left out.

    Raises:
        TrainingError: when an image is labelled both ways, or there are too few of a class.
    """
    rows: dict[bytes, int] = {}
    of_both: set[bytes] = set()
    for row, (digest, image) in enumerate(zip(table.digests, table.images, strict=True)):
        first = table.images[rows.setdefault(digest, row)]
        if first.label == image.label:
            continue
        if first.video is None and image.video is None:
            raise TrainingError(
                f"{first.path} and {image.path} are the same image with different labels; "
                "remove one of them"
            )
        # A black frame, say, which teaches nothing.
        of_both.add(digest)
    for digest in of_both:
        del rows[digest]
    kept = list(rows.values())
    images = [table.images[row] for row in kept]
    labels = [image.label for image in images]
    require_both_classes(labels)
    lines = sorted(f"{d.hex()} {n}\n" for d, n in zip(rows, labels, strict=True))
    history = DataHistory(
        real=labels.count(0),
        fake=labels.count(1),
        broken=len(table.broken),
        repeated=len(table.images) - len(kept),
        folders=len({image.folder for image in images}),
        sha256=hashlib.sha256("".join(lines).encode()).hexdigest(),
    )
    labelled = np.array(labels, np.int64)
    return TrainingSet(images, table.features[kept], labelled, group_images(images), history)


def group_images(images: Sequence[LabelledImage]) -> list[str]:
    """Names what each image belongs to: the first of all folders that belong together.

    A fake and the real image that it was made of tell each other's label away where they stand
    on two sides of a split, so that their folders are one.
    """
    first: dict[Path, Path] = {}

    def find(folder: Path) -> Path:
        while (other := first.setdefault(folder, folder)) != folder:
            folder = other
        return folder

    for fake, real in find_originals(images).items():
        one, other = find(images[fake].folder), find(images[real].folder)
        first[max(one, other)] = min(one, other)
    return [str(find(image.folder)) for image in images]


def find_originals(images: Sequence[LabelledImage]) -> dict[int, int]:
    """Maps a fake's place to that of the real image that it was made of, where names tell.

    They do where files of one name lie in folders of one name, and where they lie in folders that
    are called ``012_345`` and ``012``, as FaceForensics++'s are. A video is a folder of frames that
    are named by their times.
    """
    reals = {_key(image): row for row, image in enumerate(images) if image.label == REAL}
    found = {}
    for row, image in enumerate(images):
        made_of = image.folder.name.partition("_")[0]
        for key in (_key(image), (made_of, image.path.name)):
            if image.label == FAKE and key in reals:
                found[row] = reals[key]
                break
    return found


def _key(image: LabelledImage) -> tuple[str, str]:
    return image.folder.name, image.path.name


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
