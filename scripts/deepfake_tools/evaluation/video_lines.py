"""What videos' verdicts say in words: on the terminal, and in the results file."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from deepfake_tools.evaluation.figures import Metrics
from deepfake_tools.evaluation.outcomes import LABELS
from deepfake_tools.evaluation.videos import VideoVerdict
from deepfake_tools.videos.sampling import clock

MOST_PEOPLE = 10
"""Told of one video in words; the JSON has all."""

SCORES = {
    "mean": "the mean of its frames, as in DeepfakeBench",
    "median": "the median of its frames",
    "top10": "the mean of its most fake frames, a tenth of them",
}
FOLDER_VIDEOS = (
    "  A video is a folder, by its full path, and its score the mean of its frames. DeepfakeBench "
    "goes by\n  the folder's own name, and so makes one video of real/000 and fake/000."
)


def lines(verdict: VideoVerdict) -> Iterator[str]:
    """Yields what a video's verdict says, the prediction first; of one without, why not."""
    if verdict.prediction is None:
        yield f"No verdict: {verdict.message}"
        return
    yield f"Prediction: {LABELS[verdict.prediction]} (confidence: {verdict.confidence:.4f})"
    yield f"Frames: {frames_in_words(verdict)}"
    yield f"Most fake: {peaks_in_words(verdict)}"
    if len(verdict.people) > 1:
        yield from (person.capitalize() for person in people_in_words(verdict))


def frames_in_words(verdict: VideoVerdict) -> str:
    """Returns how many frames count, and how many do not and why."""
    left_out = verdict.left_out
    kinds = ", ".join(f"{kind} {frames}" for kind, frames in left_out.items())
    rest = f"{sum(left_out.values())} left out ({kinds})" if left_out else "none left out"
    return f"{verdict.frames} judged, {rest}"


def peaks_in_words(verdict: VideoVerdict) -> str:
    """Returns at which times a video is most fake, the most fake one first."""
    return ", ".join(f"{clock(one.time)} ({one.fake_probability:.4f})" for one in verdict.most_fake)


def people_in_words(verdict: VideoVerdict) -> Iterator[str]:
    """Yields what is known of each person who speaks, and how many others there are."""
    loudest = sorted((one for one in verdict.people if one.speaks), key=lambda one: -one.score)
    told = loudest[:MOST_PEOPLE]
    for track in sorted(told, key=lambda track: track.number or 0):
        frames = "1 frame" if len(track.sightings) == 1 else f"{len(track.sightings)} frames"
        yield (
            f"face {track.number}: {track.fake_probability:.4f} in {frames}, "
            f"{clock(track.first)} to {clock(track.last)}"
        )
    if others := len(verdict.people) - len(told):
        which = "more, less fake or" if told else "seen, each"
        yield f"faces: {others} {which} in too few frames to count"


def video_figures(metrics: Metrics) -> Iterator[str]:
    """Yields the figures by video, and what a video is in them."""
    if metrics.video_score is None:
        if metrics.video_auc is not None:
            yield f"Video-level AUC ({metrics.videos} videos): {metrics.video_auc:.4f}"
            yield FOLDER_VIDEOS
        return
    if metrics.video_auc is not None:
        yield f"Video-level AUC ({metrics.videos} videos): {metrics.video_auc:.4f}"
        yield f"  A video's score is {SCORES[metrics.video_score]}."
    if metrics.video_accuracy is not None:
        yield f"Video-level accuracy at the detector's threshold: {metrics.video_accuracy:.4f}"


def video_section(metrics: Metrics, videos: Iterable[VideoVerdict]) -> Iterator[str]:
    """Yields the results file's section of videos: a line each, as those of the images are.

    Args:
        metrics: Of the run.
        videos: Its videos, in order.
    """
    if metrics.video_score is None:
        return
    failed = sum(metrics.video_failed.values())
    count = metrics.videos + failed
    kinds = ", ".join(f"{kind} {number}" for kind, number in metrics.video_failed.items())
    yield ""
    yield f"VIDEOS: {count}" + (f", {failed} without a verdict ({kinds})" if failed else "")
    for number, video in enumerate(videos, start=1):
        name = f"{one_line_of(Path(video.path).name):>30}"
        what = " | ".join(_video(video))
        yield f"[{number}/{count}] {name} | {what} | Path: {one_line_of(video.path)}"


def _video(video: VideoVerdict) -> Iterator[str]:
    if video.fake_probability is None:
        yield f"Failed: {video.message}"
        return
    yield (
        f"True: {LABELS[video.label]:>4} | Pred: {video.prediction} (0=Real, 1=Fake) | "
        f"Prob: {video.fake_probability:.4f}"
    )
    yield f"Frames: {frames_in_words(video)}"
    yield f"Most fake: {peaks_in_words(video)}"
    if video.people:
        yield "; ".join(people_in_words(video)).capitalize()


def one_line_of(name: str) -> str:
    """Keeps a file name with a line break in it from breaking a file's lines."""
    return "?".join(name.splitlines())
