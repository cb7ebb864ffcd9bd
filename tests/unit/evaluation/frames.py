"""Outcomes of made-up videos."""

from collections.abc import Sequence
from dataclasses import replace

from deepfake_tools.evaluation.outcomes import Outcome
from deepfake_tools.torchserve.answers import Box, ServedFace
from deepfake_tools.videos.sampling import clock
from scipy.special import logit


def frame(
    video: str,
    place: int,
    score: float,
    label: int | None = None,
    *,
    step: float = 0.5,
    faces: Sequence[ServedFace] | None = None,
) -> Outcome:
    """A judged frame, one `step` seconds after the one before it, ten frames apart."""
    time = place * step
    return Outcome(
        index=place,
        path=f"{video}@{clock(time)}",
        label=label,
        folder="",
        prediction=int(score > 0.5),
        fake_probability=score,
        seconds=0.1,
        margin=float(logit(score)),
        video=video,
        time=time,
        frame=10 * place,
        faces=None if faces is None else tuple(faces),
    )


def clip(video: str, scores: Sequence[float], label: int | None = None) -> list[Outcome]:
    """A video of a detector that looks for no faces."""
    return [frame(video, place, score, label) for place, score in enumerate(scores)]


def face(box: Box, score: float) -> ServedFace:
    return ServedFace(box, score, int(score > 0.5), float(logit(score)))


def square(x: float, y: float, side: float) -> Box:
    """A face's box around its centre."""
    half = side / 2
    return round(x - half), round(y - half), round(x + half), round(y + half)


def crowd(
    video: str, faces: Sequence[Sequence[ServedFace]], label: int | None = None
) -> list[Outcome]:
    """A video of a detector that judges every face; a frame without any is judged as a whole."""
    return [
        frame(
            video,
            place,
            max((one.fake_probability for one in seen), default=0.01),
            label,
            faces=seen,
        )
        for place, seen in enumerate(faces)
    ]


def failed(outcome: Outcome, error: str, message: str = "why", exit_code: int = 1) -> Outcome:
    """The same frame without a verdict."""
    return replace(
        outcome,
        prediction=None,
        fake_probability=None,
        margin=None,
        faces=None,
        error=error,
        message=message,
        exit_code=exit_code,
    )


def unreadable(video: str, index: int = 0, label: int | None = None) -> Outcome:
    """A video that cannot be opened."""
    return Outcome(
        index=index,
        path=video,
        label=label,
        folder="",
        prediction=None,
        fake_probability=None,
        seconds=0.0,
        error="not_a_video",
        message="it holds no video",
        video=video,
        exit_code=1,
    )


def numbered(*groups: Sequence[Outcome]) -> list[Outcome]:
    """Several videos and images as one run."""
    return [
        replace(outcome, index=index)
        for index, outcome in enumerate(outcome for group in groups for outcome in group)
    ]
