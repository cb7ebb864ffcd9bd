"""Reads a head's logits: the verdict on an image, or on each of its faces."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from clip_deepfake.card import HeadCard
from clip_deepfake.decision import Decision, Ruling
from clip_deepfake.errors import DetectorError, InternalError
from clip_deepfake.face_detector import Box
from clip_deepfake.faces import Face, Faces


@dataclass(frozen=True)
class Judgement:
    """What is thought of one picture: an image, or a face in it.

    Attributes:
        label: ``FAKE`` when ``fake_probability`` is above the card's threshold.
        prediction: 1 for FAKE, 0 for REAL.
        confidence: probability of the label given, in [0, 1].
        fake_probability: the margin's sigmoid, in [0, 1]; 1 above a margin of 37, where float64
            has no number left below it.
        margin: the logit of FAKE less that of REAL, or the only logit: finite, and what tells
            apart two pictures of equal probability.
        logits: the head's output, one or two numbers.
    """

    label: Literal["REAL", "FAKE"]
    prediction: Literal[0, 1]
    confidence: float
    fake_probability: float
    margin: float
    logits: tuple[float, ...]


@dataclass(frozen=True)
class FacePlace:
    """Where a face is, in pixels of the image as the detector reads it.

    Attributes:
        found: whether there is one; without, the image was judged as a whole.
        count: faces found in the image.
        box: left, top, right, bottom of the face that was judged; may reach beyond the image.
        points: x and y of a lid point of the left eye, of the right one, the tip of the nose, the
            left and the right corner of the mouth, left as it is seen.
    """

    found: bool
    count: int
    box: Box | None = None
    points: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True)
class JudgedFace(Judgement):
    """One face of several; ``box`` and ``points`` as in ``FacePlace``."""

    box: Box
    points: tuple[tuple[int, int], ...]


Method = Literal["decomposition", "occlusion"]
"""How a margin is taken apart: exactly, by what each patch writes into the feature; or by what the
margin loses when a part of the picture is painted over."""

Corner = tuple[float, float]
"""x and y in pixels of the image as the detector reads it, whose top left corner is (0, 0)."""


@dataclass(frozen=True)
class Explanation:
    """What the parts of a picture contribute to its margin.

    Attributes:
        method: how that was found.
        grid: contributions of the parts, row by row: positive towards FAKE.
        rest: what comes from no part: ``grid`` and ``rest`` add up to ``margin``.
        margin: the verdict's.
        passes: that the encoder made of the picture, beside the verdict's own.
        corners: where the grid lies in the image: its top left corner, then clockwise. They may
            be outside, where a detector sees more than the image.
        overlay: the picture as the encoder saw it under the map, a PNG in base64; None unless
            asked for.
    """

    method: Method
    grid: tuple[tuple[float, ...], ...]
    rest: float
    margin: float
    passes: int
    corners: tuple[Corner, ...]
    overlay: str | None = None


@dataclass(frozen=True)
class Verdict(Judgement):
    """One image's answer.

    Attributes:
        face: that was judged, or of several the one that is fake with the highest probability;
            None where the detector does not look for faces.
        faces: each that was judged, the largest one first; None unless the detector judges all.
        decision: at the card's rate of false alarms; None where it has none.
        false_alarm_rate: share of the card's real images, this one counted as one, that look at
            least as fake, in (0, 1]; None where there are none.
        explanation: of the margin, of the face that ``face`` tells of; None unless asked for.
    """

    face: FacePlace | None = None
    faces: tuple[JudgedFace, ...] | None = None
    decision: Ruling | None = None
    false_alarm_rate: float | None = None
    explanation: Explanation | None = None


def form_verdict(
    judgements: Sequence[Judgement | DetectorError], found: Faces | None, *, all_faces: bool
) -> Verdict | DetectorError:
    """Puts together what is thought of an image.

    Args:
        judgements: one for each judged face, or one for the whole image.
        found: its faces; None where none were looked for.
        all_faces: whether each has a verdict of its own.

    Returns:
        The verdict, or the first reason for which a face has none: with one face missing, the
        highest probability is not known.
    """
    for judgement in judgements:
        if isinstance(judgement, DetectorError):
            return judgement
    sure = [judgement for judgement in judgements if isinstance(judgement, Judgement)]
    if found is None:
        return Verdict(**vars(sure[0]))
    if not found.judged:
        none = () if all_faces else None
        return Verdict(**vars(sure[0]), face=FacePlace(False, found.count), faces=none)
    worst = speaking(sure)
    face = found.judged[worst]
    return Verdict(
        **vars(sure[worst]),
        face=FacePlace(True, found.count, face.box, _whole_points(face)),
        faces=tuple(
            JudgedFace(**vars(judgement), box=face.box, points=_whole_points(face))
            for judgement, face in zip(sure, found.judged, strict=True)
        )
        if all_faces
        else None,
    )


def speaking(judgements: Sequence[Judgement]) -> int:
    """Which of several faces speaks for the image: the first of those with the highest margin."""
    return max(range(len(judgements)), key=lambda index: judgements[index].margin)


def decided(verdict: Verdict | DetectorError, decision: Decision | None) -> Verdict | DetectorError:
    """A verdict with what the card's decision says of it, where there is one."""
    if decision is None or isinstance(verdict, DetectorError):
        return verdict
    return replace(
        verdict,
        decision=decision.rule(verdict.margin),
        false_alarm_rate=decision.false_alarm_rate(verdict.margin),
    )


def _whole_points(face: Face) -> tuple[tuple[int, int], ...]:
    return tuple((int(x), int(y)) for x, y in face.points)


def form_judgement(logits: npt.NDArray[np.float32], head: HeadCard) -> Judgement | DetectorError:
    """Reads one picture's logits.

    Args:
        logits: float32 (outputs,).
        head: says how they are read.
    """
    if not np.isfinite(logits).all():
        return InternalError(f"the model answered {logits.tolist()}, which are no numbers")
    margin = fake_margin(logits, head)
    probability = sigmoid(margin)
    fake = probability > head.threshold
    return Judgement(
        label="FAKE" if fake else "REAL",
        prediction=1 if fake else 0,
        confidence=probability if fake else sigmoid(-margin),
        fake_probability=probability,
        margin=margin,
        logits=tuple(logits.tolist()),
    )


def fake_margin(logits: npt.NDArray[np.float32], head: HeadCard) -> float:
    """How far a head's output is on the side of FAKE; pictures are ranked by it.

    Args:
        logits: float32 (outputs,), finite.
        head: says whether they are one logit for a sigmoid or several for a softmax.

    Returns:
        The logit, or the difference of two, in float64: finite, and as many different values as
        float32 has. A softmax over two logits is the sigmoid of their difference; of several, the
        logarithm of a sum of exponentials stands for those on either side.
    """
    values: list[float] = logits.tolist()
    if head.outputs == 1:
        return values[0]
    fake = [values[index] for index in head.fake_indices]
    real = [value for index, value in enumerate(values) if index not in head.fake_indices]
    return _log_sum(fake) - _log_sum(real)


def margin_weights(logits: npt.NDArray[np.float32], head: HeadCard) -> npt.NDArray[np.float32]:
    """What the logits are multiplied by in the margin: its derivative.

    Of one or two logits it is the margin itself; of several, what is left of the logarithms is a
    constant to whoever takes the logits apart.

    Args:
        logits: float32 (outputs,), finite.
        head: says how they are read.

    Returns:
        float32 (outputs,).
    """
    if head.outputs == 1:
        return np.ones(1, np.float32)
    fake = np.isin(np.arange(head.outputs), head.fake_indices)
    sides = [np.where(side, logits.astype(np.float64), -np.inf) for side in (fake, ~fake)]
    shares = [np.exp(side - side.max()) for side in sides]
    weights: npt.NDArray[np.float32] = np.subtract(
        *(share / share.sum() for share in shares), dtype=np.float32
    )
    return weights


def _log_sum(logits: Sequence[float]) -> float:
    """The logit that stands for several, whose probabilities are added."""
    largest = max(logits)
    return largest + math.log(sum(math.exp(logit - largest) for logit in logits))


def sigmoid(margin: float) -> float:
    """The probability that a margin stands for, to float64's last digits on either side.

    The exponential is taken of what is not positive: it cannot overflow, and nothing is subtracted
    from a number near it.
    """
    grown = math.exp(-abs(margin))
    return (grown if margin < 0 else 1.0) / (1.0 + grown)


def to_fields(verdict: Verdict) -> dict[str, object]:
    """A verdict as JSON has it; what the detector does not look for is left out."""
    return asdict(verdict, dict_factory=_known)


def _known(fields: list[tuple[str, object]]) -> dict[str, object]:
    return {name: value for name, value in fields if value is not None}
