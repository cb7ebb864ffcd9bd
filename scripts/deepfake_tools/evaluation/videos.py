"""Directories of labelled images in, one score and label for each video out."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import NamedTuple

from deepfake_tools.labels import name_labels


@dataclass(slots=True)
class Directory:
    """The labelled images of one directory, added up.

    Attributes:
        images: How many.
        fake: How many of them are labelled fake.
        probability: Sum of their `fake_probability`.
        score: Sum of their scores.
        pattern: What their names have in common when digits are left out; None when nothing.
    """

    images: int = 0
    fake: int = 0
    probability: float = 0.0
    score: float = 0.0
    pattern: str | None = None

    def add(self, name: str, label: int, probability: float, score: float) -> None:
        """Takes in one image.

        Args:
            name: Its file name.
            label: 0 real, 1 fake.
            probability: Its `fake_probability`.
            score: What it is ranked by.
        """
        pattern = re.sub(r"\d+", "#", PurePath(name).stem)
        if self.images == 0 and "#" in pattern:
            self.pattern = pattern
        elif pattern != self.pattern:
            self.pattern = None
        self.images += 1
        self.fake += label
        self.probability += probability
        self.score += score


class Videos(NamedTuple):
    """A label (0 real, 1 fake) and a score for each video; higher is more fake."""

    labels: list[int]
    scores: list[int]


def video_scores(directories: Mapping[str, Directory]) -> Videos | None:
    """Returns the label and the score of each video, or None where there are no videos.

    A video's score is its place by the mean of its frames' probabilities, as in DeepfakeBench's
    `get_video_metrics` (https://github.com/SCLBD/DeepfakeBench, training/metrics/utils.py); of
    equal means, as those that round to 1 are, by the mean of their own scores. DeepfakeBench groups
    frames by the base name of their folder, which merges `real/000` and `fake/000`; here it is the
    full path.

    The directories are taken for videos when all of these hold:

    - there are at least two of either class, and two images in each on average;
    - the images of each have one label, and one name but for its digits, as frames do;
    - none is named for a class, as `real` or `1_fake` are.

    Args:
        directories: Labelled images by the directory's full path.
    """
    videos = directories.values()
    fake = sum(video.fake > 0 for video in videos)
    if min(fake, len(videos) - fake) < 2 or sum(v.images for v in videos) < 2 * len(videos):
        return None
    if not all(video.pattern and video.fake in (0, video.images) for video in videos):
        return None
    if any(name_labels(PurePath(directory).name) for directory in directories):
        return None
    labels = [int(video.fake > 0) for video in videos]
    means = [(video.probability / video.images, video.score / video.images) for video in videos]
    places = {mean: place for place, mean in enumerate(sorted(set(means)))}
    return Videos(labels, [places[mean] for mean in means])
