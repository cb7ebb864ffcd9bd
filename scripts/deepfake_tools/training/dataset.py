"""The images to train on: found in a folder or listed in a CSV file, each with its label."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deepfake_tools.image_files import LeftOut, find_images
from deepfake_tools.labels import Label, LabelCounts, read_folder, read_labels


class TrainingError(Exception):
    """No head can be trained; the one-line message says why and what to do."""


@dataclass(frozen=True)
class LabelledImage:
    """An image file and what it shows; or a video, until frames stand in its place.

    Attributes:
        path: of the file.
        label: 0 for real, 1 for fake.
        video: that it is a frame of; None where it lies in a file by itself.
    """

    path: Path
    label: Label
    video: Path | None = None

    @property
    def folder(self) -> Path:
        """What stands for all that belongs together: its folder, or its video as if it were one."""
        return self.path.parent if self.video is None else self.video.with_suffix("")


@dataclass(frozen=True)
class Dataset:
    """Labelled images, and videos.

    Attributes:
        images: in the order of their paths, or in that of the CSV file.
        unlabelled: how many images were found that have no label.
        not_found: how many the CSV file lists that do not lie in the folder.
        left_out: files in the folder that were not taken.
        labelled: how many images have which label, by the folder that says so.
    """

    images: tuple[LabelledImage, ...]
    unlabelled: int
    not_found: int
    left_out: LeftOut
    labelled: LabelCounts


def read_dataset(folder: Path | None, labels: Path | None) -> Dataset:
    """Finds images, videos, and their labels.

    Args:
        folder: they are looked for in it and below it; None takes those of the CSV file.
        labels: a CSV file; None goes by the names of the directories below ``folder``.

    Raises:
        TrainingError: when there is no such folder.
        LabelError: when a label cannot be known.
    """
    require_data(folder, labels)
    listed = None if labels is None else read_labels(labels)
    left_out, counts = LeftOut(videos=True), LabelCounts()
    if folder is None:
        images = [LabelledImage(path, label) for path, label in (listed or {}).items()]
        for image in images:
            counts.add_listed(str(image.path.parent), image.label)
        return Dataset(tuple(images), 0, 0, left_out, counts)
    found = {path: _label(path, folder, listed, counts) for path in find_images(folder, left_out)}
    known = tuple(LabelledImage(p, label) for p, label in found.items() if label is not None)
    not_found = 0 if listed is None else len(listed) - len(known)
    return Dataset(known, len(found) - len(known), not_found, left_out, counts)


def require_data(folder: Path | None, labels: Path | None) -> None:
    """Finds out that there is nothing to train on before anything is written anywhere.

    Raises:
        TrainingError: when neither is given, or there is no such folder.
    """
    if folder is None and labels is None:
        raise TrainingError("nothing to train on: give --data DIR, --labels FILE.csv, or both")
    if folder is not None and not folder.is_dir():
        raise TrainingError(f"--data {folder} is no folder")


def _label(
    path: Path, folder: Path, listed: Mapping[Path, Label] | None, counts: LabelCounts
) -> Label | None:
    name = path.parent.relative_to(folder).as_posix()
    if listed is None:
        reading = read_folder(path.parent, folder)
        counts.add(reading, name)
        return reading.label
    label = listed.get(Path(os.path.abspath(path)))  # noqa: PTH100 - as `read_labels` spells it
    counts.add_listed(name, label)
    return label
