"""Scores of real and fake images in, the decision that holds the false alarms out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from clip_deepfake.decision import Decision, FakeImages, RealImages

from deepfake_tools.deciding.conformal import lowest_fakes, table, threshold
from deepfake_tools.deciding.selection import Chosen, digest


class DecidingError(Exception):
    """No decision can be made of these scores; the one-line message says why."""


@dataclass(frozen=True)
class Rates:
    """What was asked for.

    Attributes:
        false_alarms: The share of real images that may be called FAKE.
        unsure: What sets the band of UNSURE; None for none.
    """

    false_alarms: float
    unsure: float | None = None


@dataclass(frozen=True)
class Judged:
    """Images that were scored.

    Attributes:
        images: Those with a margin.
        margins: Of the same images.
    """

    images: Sequence[Chosen]
    margins: Sequence[float]

    @classmethod
    def of(cls, chosen: Sequence[Chosen], margins: Mapping[int, float], start: int = 0) -> "Judged":
        """Puts images and margins together; those without one are left out.

        Args:
            chosen: The images.
            margins: By position.
            start: The position of the first of the images.
        """
        places = [place for place in range(len(chosen)) if start + place in margins]
        return cls([chosen[place] for place in places], [margins[start + p] for p in places])


def decide(detector: str, rates: Rates, reals: Judged, fakes: Judged | None) -> Decision:
    """Makes a decision.

    Args:
        detector: The fingerprint of what gave the scores.
        rates: What is wanted.
        reals: Real images, each for itself.
        fakes: Fake ones; None where there are none.

    Raises:
        DecidingError: The scores allow none.
        TooFewImagesError: There are too few images for the rates.
    """
    _check(reals, "real")
    if fakes is not None:
        _check(fakes, "fake")
    margins = sorted(reals.margins)
    fake_above = threshold(margins, rates.false_alarms, "--false-alarms")
    ranks, kept = table(margins, rates.false_alarms, rates.unsure)
    return Decision(
        schema=1,
        detector=detector,
        false_alarms=rates.false_alarms,
        fake_above=fake_above,
        real_up_to=_real_up_to(rates, margins, fakes, fake_above),
        unsure=rates.unsure,
        scored_on=datetime.now(UTC).date().isoformat(),
        reals=RealImages(len(margins), digest(reals.images)),
        fakes=None if fakes is None else _fakes(fakes, fake_above),
        ranks=ranks,
        margins=kept,
    )


def _check(judged: Judged, what: str) -> None:
    if not judged.margins:
        raise DecidingError(f"the detector gave a verdict on none of the {what} images")
    broken = [
        one.image.path
        for one, margin in zip(judged.images, judged.margins, strict=True)
        if not math.isfinite(margin)
    ]
    if broken:
        raise DecidingError(
            f"{len(broken)} of the {what} images have a margin that is no number, the first is "
            f"{broken[0]}: the detector is damaged"
        )


def _real_up_to(
    rates: Rates, reals: Sequence[float], fakes: Judged | None, fake_above: float
) -> float:
    if rates.unsure is None:
        return fake_above
    if fakes is not None:
        # Where the two kinds are that far apart, no band is needed.
        return min(lowest_fakes(sorted(fakes.margins), rates.unsure, "--unsure"), fake_above)
    if rates.unsure <= rates.false_alarms:
        raise DecidingError(
            f"--unsure {rates.unsure:g} leaves no band above --false-alarms "
            f"{rates.false_alarms:g}: without --fakes it is the larger share of real images, up "
            "to which none is called REAL"
        )
    return threshold(reals, rates.unsure, "--unsure")


def _fakes(fakes: Judged, fake_above: float) -> FakeImages:
    missed = sum(margin <= fake_above for margin in fakes.margins)
    return FakeImages(len(fakes.margins), missed, digest(fakes.images))
