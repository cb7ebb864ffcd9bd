"""What the figures need of videos, be they files or folders of frames."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import NamedTuple

from deepfake_tools.evaluation.mistakes import Mistakes
from deepfake_tools.evaluation.videos import VideoVerdict
from deepfake_tools.labels import name_labels

VIDEO_MISTAKES = 12


class LabelledVideos(NamedTuple):
    """A label (0 real, 1 fake) for each video, and what it is ranked by; higher is more fake.

    A video is ranked by its probability; of equal ones, as those that round to 1 are, by its score.
    """

    labels: list[int]
    scores: list[tuple[float, float]]

    def places(self) -> list[int]:
        """Returns each video's place among the different scores."""
        places = {score: place for place, score in enumerate(sorted(set(self.scores)))}
        return [places[score] for score in self.scores]


class VideoAccumulator:
    """What the figures need of a run's videos.

    Attributes:
        labelled: The videos with a true label and a verdict.
        judged: How many videos have a verdict, labelled or not.
        right: How many predictions are the label.
        failed: How many videos have no verdict, by kind.
        mistakes: The most confident ones, as small as a drawing needs.
    """

    def __init__(self) -> None:
        self.labelled = LabelledVideos([], [])
        self.judged = self.right = 0
        self.failed: Counter[str] = Counter()
        self.mistakes = Mistakes[VideoVerdict](VIDEO_MISTAKES)

    @property
    def accuracy(self) -> float | None:
        """The share of right predictions; None without labels."""
        labelled = len(self.labelled.labels)
        return self.right / labelled if labelled else None

    def add(self, video: VideoVerdict) -> None:
        """Takes in one verdict."""
        if video.fake_probability is None or video.score is None:
            self.failed[video.error or "unknown"] += 1
            return
        self.judged += 1
        if video.label is None:
            return
        self.labelled.scores.append((video.fake_probability, video.score))
        self.labelled.labels.append(video.label)
        if video.prediction == video.label:
            self.right += 1
        else:
            further = -video.score if video.label else video.score
            self.mistakes.add((video.confidence, further), video.thinned())


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


def folder_videos(directories: Mapping[str, Directory]) -> LabelledVideos | None:
    """Returns the videos that folders of frames are, or None where there are none.

    A video's score is the mean of its frames' probabilities, as in DeepfakeBench's
    `get_video_metrics` (https://github.com/SCLBD/DeepfakeBench, training/metrics/utils.py).
    DeepfakeBench groups frames by the base name of their folder, which merges `real/000` and
    `fake/000`; here it is the full path.

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
    return LabelledVideos(labels, means)
