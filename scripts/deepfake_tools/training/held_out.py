"""The list of images that judged a detector, to judge others by: ``--labels`` reads it."""

import csv
from collections.abc import Sequence
from pathlib import Path

from deepfake_tools.files import replacing
from deepfake_tools.training.dataset import LabelledImage

HELD_OUT = "held_out.csv"


def list_beside(head: Path) -> Path:
    """Returns where the list of a head's held-out images goes."""
    return head.with_suffix(f".{HELD_OUT}")


def write_held_out(path: Path, images: Sequence[LabelledImage], *, whole_videos: bool) -> None:
    """Lists images with their labels.

    Args:
        path: the file to write; one that is there is replaced.
        images: those that judged the detector.
        whole_videos: whether a video is listed in the place of its frames, as no frame of it was
            trained on. Otherwise frames are listed by the files that the cache has of them.
    """
    listed = {
        image.video if whole_videos and image.video is not None else image.path: image.label
        for image in images
    }
    with replacing(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "label"])
        writer.writerows([path.absolute(), label] for path, label in listed.items())
