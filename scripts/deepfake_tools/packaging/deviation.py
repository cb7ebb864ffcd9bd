"""How far a detector in another precision is from the float32 one, and whether that is too far."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from clip_deepfake.card import Deviation, HeadCard, Precision
from clip_deepfake.engines import Engine, Logits, Pixels
from clip_deepfake.verdicts import fake_margin, sigmoid

from deepfake_tools.labels import Label
from deepfake_tools.packaging.calibration import Sample
from deepfake_tools.packaging.hub import BuildError

LEAST_AGREEMENT = 0.99
"""Of labels, on images that the builder was given."""

BATCH = 8

Margins = npt.NDArray[np.float64]
"""``verdicts.fake_margin`` of each picture, (pictures,)."""


@dataclass(frozen=True)
class Reference:
    """What the float32 detector makes of pictures.

    Attributes:
        sample: the pictures.
        logits: its own, float32 (pictures, outputs).
    """

    sample: Sample
    logits: Logits


def refer(engine: Engine, sample: Sample) -> Reference:
    """Asks a float32 engine about pictures."""
    return Reference(sample, logits_of(engine, sample.pixels))


def logits_of(engine: Engine, pixels: Pixels) -> Logits:
    """Asks an engine about any number of pictures.

    Args:
        engine: to be asked.
        pixels: uint8 (pictures, side, side, 3).

    Returns:
        Float32 (pictures, outputs).

    Raises:
        BuildError: when one has no finite logits.
    """
    starts = range(0, len(pixels), BATCH)
    logits = np.concatenate([engine(pixels[start : start + BATCH]) for start in starts])
    if not np.isfinite(logits).all():
        raise BuildError(
            f"on {engine.name} the encoder's numbers grow beyond what the precision holds: the "
            "logits of pictures are not finite; build with --precision bfloat16, which reaches as "
            "far as float32, or with float32"
        )
    return logits


def measure(head: HeadCard, reference: Reference, engine: Engine, measured_on: str) -> Deviation:
    """Compares an engine with the float32 detector.

    Args:
        head: says how logits are read.
        reference: pictures, and what float32 makes of them.
        engine: to be compared.
        measured_on: the engine in words.

    Raises:
        BuildError: when its logits are not finite.
    """
    sample, before = reference.sample, reference.logits
    after = logits_of(engine, sample.pixels)
    ranks = [_margins(head, logits) for logits in (before, after)]
    exact, found = (np.array([sigmoid(margin) for margin in some]) for some in ranks)
    change = np.abs(found - exact)
    same = (exact > head.threshold) == (found > head.threshold)
    return Deviation(
        source=sample.source,
        images=len(sample.pixels),
        sha256=sample.sha256,
        measured_on=measured_on,
        largest_logit_change=round(float(np.abs(after - before).max()), 6),
        mean_change=round(float(change.mean()), 6),
        largest_change=round(float(change.max()), 6),
        agreement=round(float(same.mean()), 6),
        float32_auc=_auc(sample.labels, ranks[0]),
        auc=_auc(sample.labels, ranks[1]),
    )


def _margins(head: HeadCard, logits: Logits) -> Margins:
    return np.array([fake_margin(row, head) for row in logits])


def _auc(labels: Sequence[Label | None], scores: Margins) -> float | None:
    known = [index for index, label in enumerate(labels) if label is not None]
    truth = [labels[index] for index in known]
    if len(set(truth)) < 2:
        return None
    from sklearn.metrics import roc_auc_score

    return round(float(roc_auc_score(truth, scores[known])), 6)


def farthest(reference: Reference, engine: Engine) -> float:
    """The largest absolute difference between an engine's logits and float32's.

    Raises:
        BuildError: when its logits are not finite.
    """
    return float(np.abs(logits_of(engine, reference.sample.pixels) - reference.logits).max())


def tolerance(reference: Reference, off: float) -> float:
    """How far a worker's self-test may be off.

    Args:
        reference: the fixed pictures, of which the self-test's is one: it alone could be off by
            little by chance.
        off: the largest difference of a logit, over every way in which this precision is computed.

    Returns:
        Twice that, and a hundredth of the logits' size for other processors.
    """
    return round(2 * off + 0.01 * max(1.0, float(np.abs(reference.logits).max())), 4)


def describe(precision: Precision, found: Deviation) -> str:
    """What a precision changed, in a sentence."""
    areas = ""
    if found.float32_auc is not None:
        areas = f"; AUC {found.auc:.4f} instead of {found.float32_auc:.4f}"
    pictures = "images of --calibration"
    if found.source == "fixed pictures":
        pictures = "fixed pictures, for want of --calibration"
    return (
        f"{precision} changes fake_probability by {found.mean_change:.4f} on average and "
        f"{found.largest_change:.4f} at most; {found.agreement:.2%} of {found.images} labels are "
        f"the same{areas}; measured on {pictures}: {found.measured_on}"
    )


def refuse_too_large(
    precision: Precision, deviation: Deviation, max_deviation: float, remedy: str
) -> None:
    """Ends a build whose detector is too far from the float32 one.

    Args:
        precision: of the detector.
        deviation: that was measured.
        max_deviation: the largest mean change of ``fake_probability`` to accept.
        remedy: what else than float32 would help, as an imperative.

    Raises:
        BuildError: when it is, or when too many labels differ on images that were given.
    """
    reasons = []
    if deviation.mean_change > max_deviation:
        reasons.append(
            f"the mean change {deviation.mean_change:.4f} is above --max-deviation {max_deviation}"
        )
    if deviation.source == "calibration" and deviation.agreement < LEAST_AGREEMENT:
        reasons.append(
            f"{deviation.agreement:.2%} of labels agree, fewer than {LEAST_AGREEMENT:.0%}"
        )
    if reasons:
        raise BuildError(
            f"{precision} changes the verdicts too much: {' and '.join(reasons)}. {remedy}, or "
            "build with --precision float32"
        )
