"""A video's verdict: what its frames, or the faces followed through them, say together."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter
from statistics import fmean, median
from typing import Literal, get_args

from deepfake_tools.errors import ImageRefusedError
from deepfake_tools.evaluation.outcomes import NO_FACE, Outcome, ranked_by
from deepfake_tools.evaluation.tracks import Sighting, follow
from deepfake_tools.torchserve.answers import Box, DetectorInfo

VideoScore = Literal["mean", "median", "top10"]
VIDEO_SCORES: tuple[VideoScore, ...] = get_args(VideoScore)
"""What --video-score takes."""

THRESHOLD = 0.5
"""Where an archive does not say its own."""

SHORT = 10
"""A person speaks who is seen in one of so many of the judged frames at least, and in two.

A false detection in one frame must not speak, nor a passer-by. Where nobody is seen for so long, as
in a film of quick cuts, the frames speak, each by its most fake face.
"""

PEAKS = 3
CURVE_POINTS = 400
CURVES = 6


@dataclass(frozen=True)
class VideoScoring:
    """How a video's score comes from its frames'.

    Attributes:
        how: `mean` of the frames, as DeepfakeBench has it; their `median`, which a few wrong frames
            do not move; or `top10`, the mean of the most fake tenth of them, at least one, which
            finds a short manipulated stretch and takes more real videos for fake.
        threshold: A video is FAKE above it.
        all_faces: Whether the detector judges every face, so that people are followed.
    """

    how: VideoScore = "mean"
    threshold: float = THRESHOLD
    all_faces: bool = False

    @classmethod
    def of(cls, how: VideoScore, detector: DetectorInfo | None) -> "VideoScoring":
        """Returns the way for a detector; None where none has answered."""
        if detector is None:
            return cls(how)
        threshold = THRESHOLD if detector.threshold is None else detector.threshold
        return cls(how, threshold, detector.faces == "all")


@dataclass(frozen=True, slots=True)
class Gap:
    """A frame that does not count.

    Attributes:
        place: Its position among those of its video that were asked about.
        time: In seconds from the video's beginning; None where it is not known.
        error: The kind of its failure; `no_face` too where the whole frame was judged.
    """

    place: int
    time: float | None
    error: str


@dataclass(frozen=True, slots=True)
class Track:
    """One person in a video; or all its frames, where there is nobody to follow.

    Attributes:
        number: From 1 on, in the order in which people come up; None for all frames, each by its
            most fake face.
        fake_probability: Of its sightings together.
        score: The same of what they are ranked by.
        speaks: Whether it may be the video's: a face that is seen in a few frames alone often is
            none, or nobody who matters.
        sightings: In the order of the frames; at least one.
        step: Places from one sighting to the next; more than 1 where not all were kept.
    """

    number: int | None
    fake_probability: float
    score: float
    speaks: bool
    sightings: tuple[Sighting, ...]
    step: int = 1

    @property
    def first(self) -> float:
        """When it is seen first."""
        return self.sightings[0].time

    @property
    def last(self) -> float:
        """When it is seen last."""
        return self.sightings[-1].time

    def stretches(self) -> Iterator[list[Sighting]]:
        """Yields the sightings in frames that follow one another, as they are to be joined."""
        stretch: list[Sighting] = []
        for sighting in self.sightings:
            if stretch and sighting.place - stretch[-1].place > self.step:
                yield stretch
                stretch = []
            stretch.append(sighting)
        yield stretch

    def thinned(self) -> "Track":
        """Returns it with as many sightings at most as a drawing shows."""
        step = -(-len(self.sightings) // CURVE_POINTS)
        return replace(self, sightings=self.sightings[::step], step=step * self.step)


@dataclass(frozen=True, slots=True)
class VideoVerdict:
    """What became of one video: a prediction, or a failure.

    Attributes:
        path: The video as it was given or collected.
        label: The true label, 0 real or 1 fake; None when it is not known.
        folder: Its folder relative to the root given with --image.
        frames: How many frames were judged and count.
        tracks: People; and one without a number, where nobody is followed or is there for long.
        gaps: The frames that do not count.
        fake_probability: Of the track that speaks; None without a verdict.
        score: What it is ranked by among videos of equal probability.
        prediction: 0 (real) or 1 (fake).
        error: The kind of its failure; None when it has a verdict.
        message: The failure in one line.
        exit_code: Of the failure.
    """

    path: str
    label: int | None
    folder: str
    frames: int
    tracks: tuple[Track, ...]
    gaps: tuple[Gap, ...]
    fake_probability: float | None = None
    score: float | None = None
    prediction: int | None = None
    error: str | None = None
    message: str | None = None
    exit_code: int = 0

    @property
    def confidence(self) -> float:
        """The probability of the label given; 0 without a verdict."""
        if self.fake_probability is None:
            return 0.0
        return self.fake_probability if self.prediction else 1 - self.fake_probability

    @property
    def left_out(self) -> Mapping[str, int]:
        """How many frames do not count, by kind, the most frequent first."""
        return dict(Counter(gap.error for gap in self.gaps).most_common())

    @property
    def people(self) -> tuple[Track, ...]:
        """Those who were followed."""
        return tuple(track for track in self.tracks if track.number is not None)

    @property
    def curve(self) -> list[Sighting]:
        """The most fake sighting in each frame, of the tracks that speak."""
        highest: dict[int, Sighting] = {}
        for track in self.tracks:
            for one in track.sightings if track.speaks else ():
                if one.place not in highest or one.score > highest[one.place].score:
                    highest[one.place] = one
        return [highest[place] for place in sorted(highest)]

    @property
    def most_fake(self) -> list[Sighting]:
        """Up to three sightings at different times, the most fake one first.

        They are more than a tenth of the frames apart, and never neighbours: else all three would
        be of one moment.
        """
        curve = self.curve
        apart = max(1, len(curve) // 10)
        found: list[Sighting] = []
        for one in sorted(curve, key=lambda one: -one.score):
            if all(abs(one.place - other.place) > apart for other in found):
                found.append(one)
            if len(found) == PEAKS:
                break
        return found

    def thinned(self) -> "VideoVerdict":
        """Returns it with what a drawing shows alone, so that it is small however long it is."""
        loudest = sorted(self.tracks, key=lambda track: (-track.speaks, -track.score))[:CURVES]
        return replace(self, tracks=tuple(track.thinned() for track in loudest), gaps=())


def by_video(outcomes: Iterable[Outcome]) -> Iterator[tuple[str | None, Iterator[Outcome]]]:
    """Yields each video with its frames; images are together under None.

    Args:
        outcomes: In the order of the run, in which a video's frames follow one another.
    """
    return groupby(outcomes, key=attrgetter("video"))


def judge_videos(outcomes: Iterable[Outcome], scoring: VideoScoring) -> Iterator[VideoVerdict]:
    """Yields the verdict on each video of a run; one video's frames are in memory at a time.

    Args:
        outcomes: In the order of the run; images among them are passed over.
        scoring: How to judge.
    """
    for video, frames in by_video(outcomes):
        if video is not None:
            yield judge_video(list(frames), scoring)


def judge_video(outcomes: Sequence[Outcome], scoring: VideoScoring) -> VideoVerdict:
    """Returns the verdict on one video.

    Frames in which a detector of faces found none do not count, be they errors or judged as a
    whole: the head was trained on faces. Without any other there is no verdict, least of all REAL.

    Args:
        outcomes: Of its frames, in order, at least one; or of the video that cannot be read.
        scoring: How to judge.
    """
    start = outcomes[0].index
    frames, gaps = [], []
    for outcome in outcomes:
        place = outcome.index - start
        if found := _sightings(place, outcome, scoring):
            frames.append(found)
        else:
            error = NO_FACE if outcome.is_faceless else outcome.error or "unknown"
            gaps.append(Gap(place, outcome.time, error))
    verdict = VideoVerdict(
        path=outcomes[0].video or outcomes[0].path,
        label=outcomes[0].label,
        folder=outcomes[0].folder,
        frames=len(frames),
        tracks=_tracks(frames, scoring),
        gaps=tuple(gaps),
    )
    if not frames:
        return _without_verdict(verdict, outcomes)
    speaker = max(
        (track for track in verdict.tracks if track.speaks),
        key=lambda track: (track.fake_probability, track.score),
    )
    return replace(
        verdict,
        fake_probability=speaker.fake_probability,
        score=speaker.score,
        prediction=int(speaker.fake_probability > scoring.threshold),
    )


def failures(outcomes: Iterable[Outcome]) -> Iterator[int]:
    """Yields the exit code of each failure of a run.

    A frame without a face is none where its video has others; a video of such frames alone is one.

    Args:
        outcomes: In the order of the run.
    """
    for _, group in by_video(outcomes):
        is_judged = has_failed = has_left_out = False
        for outcome in group:
            is_judged |= outcome.error is None and not outcome.is_faceless
            if outcome.exit_code and not outcome.is_left_out:
                has_failed = True
                yield outcome.exit_code
            has_left_out |= outcome.video is not None and outcome.is_faceless
        if has_left_out and not is_judged and not has_failed:
            yield ImageRefusedError.exit_code


def _sightings(place: int, outcome: Outcome, scoring: VideoScoring) -> list[Sighting]:
    """Returns what counts of a frame: nothing, the frame, its only judged face, or each face."""
    if outcome.fake_probability is None or outcome.is_faceless:
        return []
    judged: list[tuple[float, float | None, Box | None]]
    if outcome.faces:
        faces = outcome.faces if scoring.all_faces else outcome.faces[:1]
        judged = [(face.fake_probability, face.margin, face.box) for face in faces]
    else:
        judged = [(outcome.fake_probability, outcome.margin, None)]
    return [
        Sighting(
            place=place,
            frame=outcome.frame,
            time=outcome.time or 0.0,
            fake_probability=probability,
            score=ranked_by(probability, margin),
            margin=margin,
            box=box,
        )
        for probability, margin, box in judged
    ]


def _tracks(frames: Sequence[Sequence[Sighting]], scoring: VideoScoring) -> tuple[Track, ...]:
    if not frames:
        return ()
    if not scoring.all_faces:
        return (_track(None, [one for frame in frames for one in frame], scoring),)
    people = [_track(number, found, scoring) for number, found in enumerate(follow(frames), 1)]
    least = max(2, len(frames) / SHORT)
    people = [replace(track, speaks=len(track.sightings) >= least) for track in people]
    if any(track.speaks for track in people):
        return tuple(people)
    # The highest of many scores that are of a frame or two each says little but how many they are.
    most_fake = [max(frame, key=lambda one: one.score) for frame in frames]
    return (_track(None, most_fake, scoring), *people)


def _track(number: int | None, sightings: Sequence[Sighting], scoring: VideoScoring) -> Track:
    probability, score = together(sightings, scoring.how)
    return Track(number, probability, score, speaks=True, sightings=tuple(sightings))


def together(sightings: Sequence[Sighting], how: VideoScore) -> tuple[float, float]:
    """Returns one probability for several, and one score.

    The mean is that of probabilities, as in DeepfakeBench's `get_video_metrics`
    (https://github.com/SCLBD/DeepfakeBench, training/metrics/utils.py).

    Args:
        sightings: At least one.
        how: What to make of them.
    """
    ranked = sorted(sightings, key=lambda one: (one.score, one.fake_probability), reverse=True)
    if how == "top10":
        ranked = ranked[: max(1, len(ranked) // 10)]
    middle = median if how == "median" else fmean
    return middle([one.fake_probability for one in ranked]), middle([one.score for one in ranked])


def _without_verdict(verdict: VideoVerdict, outcomes: Sequence[Outcome]) -> VideoVerdict:
    """Returns the verdict with the reason why it says nothing."""
    for outcome in outcomes:
        if outcome.error not in (None, NO_FACE):
            code = outcome.exit_code
            return replace(verdict, error=outcome.error, message=outcome.message, exit_code=code)
    asked = "its only frame" if len(outcomes) == 1 else f"any of its {len(outcomes)} frames"
    return replace(
        verdict,
        error=NO_FACE,
        message=f"no face in {asked}",
        exit_code=ImageRefusedError.exit_code,
    )
