"""A decision in words: the threshold, what it guarantees, and what it misses."""

from collections.abc import Iterator

from clip_deepfake.decision import Decision, FakeImages
from clip_deepfake.verdicts import sigmoid

from deepfake_tools.deciding.conformal import guarantee, share_interval
from deepfake_tools.deciding.scoring import Scored
from deepfake_tools.evaluation.figures import CONFIDENCE


def describe(decision: Decision, scored: Scored) -> Iterator[str]:
    """Yields what a person wants to know of a new decision, a line each."""
    images = decision.reals.images
    held = guarantee(images, decision.false_alarms)
    low, high = held.interval
    yield f"images       {images:,} real{_fakes(decision.fakes)}{_failed(scored)}"
    yield f"FAKE above   {_level(decision.fake_above)}"
    yield (
        f"false alarms {_percent(held.mean)} of such real images on average, of the "
        f"{_percent(decision.false_alarms)} that were allowed"
    )
    yield (
        f"             {_percent(low)} to {_percent(high)} with this threshold, with a probability "
        f"of {CONFIDENCE:.0%}"
    )
    yield from _missed(decision)
    yield from _band(decision)
    yield f"detector     {decision.detector[:16]}..., scored on {decision.scored_on}"
    if decision.margins[0] == decision.margins[-1]:
        yield (
            "warning      all margins are equal: the detector tells none of these images from "
            "another, and calls nothing like them FAKE"
        )
    if scored.is_untrained:
        yield (
            "warning      the detector's head is untrained: false alarms are held all the same, "
            "but what it finds is chance"
        )


def _fakes(fakes: FakeImages | None) -> str:
    return "" if fakes is None else f", {fakes.images:,} fake"


def _failed(scored: Scored) -> str:
    kinds = ", ".join(f"{kind} {count}" for kind, count in scored.failed.most_common())
    return f"; without a verdict, and left out: {kinds}" if kinds else ""


def _missed(decision: Decision) -> Iterator[str]:
    fakes = decision.fakes
    if fakes is not None:
        low, high = share_interval(fakes.missed, fakes.images)
        yield (
            f"missed       {_percent(fakes.missed / fakes.images)} of the fakes, "
            f"{_percent(low)} to {_percent(high)} with {CONFIDENCE:.0%}"
        )


def _band(decision: Decision) -> Iterator[str]:
    if decision.unsure is None:
        return
    wanted = _percent(decision.unsure)
    if decision.fakes is None:
        yield f"UNSURE       above {_level(decision.real_up_to)}: {wanted} of such real images"
    elif decision.real_up_to < decision.fake_above:
        yield f"UNSURE       above {_level(decision.real_up_to)}: REAL is at most {wanted} of fakes"
    else:
        yield f"UNSURE       nothing: below the threshold lie at most {wanted} of such fakes"


def _level(margin: float) -> str:
    return f"margin {margin:.6g} (fake_probability {sigmoid(margin):.4f})"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
