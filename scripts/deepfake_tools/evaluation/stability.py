"""Stability (--stability): whether an image is called the same after what any upload does to it."""

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from deepfake_tools.evaluation.outcomes import Outcome
from deepfake_tools.evaluation.perturbations import Perturbation

CHANGES = (
    Perturbation("jpeg", 90),
    Perturbation("jpeg", 70),
    Perturbation("resize", 0.75),
    Perturbation("resize", 0.5),
    Perturbation("shift", 3),
)
"""Asked about in one request with the image as it is."""


def with_stability(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Returns the outcomes of images as they are, with what their changed copies tell of them.

    Args:
        outcomes: Of some images, in any order; those of one image all among them.
    """
    by_image: defaultdict[int, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_image[outcome.index].append(outcome)
    return [
        _summed_up(plain, own) for own in by_image.values() for plain in own if not plain.variant
    ]


def merged(variants: Sequence[Iterable[Outcome]]) -> Iterator[Outcome]:
    """Yields what `with_stability` does of a whole run, one image at a time.

    Args:
        variants: The outcomes under each variant, in the order of the images.
    """
    together = heapq.merge(*variants, key=lambda outcome: outcome.index)
    for _, own in groupby(together, key=lambda outcome: outcome.index):
        yield from with_stability(own)


def share_held(plain: Iterable[Outcome], changed: Iterable[Outcome]) -> float | None:
    """Returns the share of images that are called the same, of those judged both times.

    Args:
        plain: The outcomes of images as they are, in the order of the images.
        changed: Those under a perturbation, in the same order.

    Returns:
        None where no image was judged both times.
    """
    judged = held = 0
    for one in merged((plain, changed)):
        if one.unstable is not None:
            judged += 1
            held += not one.unstable
    return held / judged if judged else None


def _summed_up(plain: Outcome, own: Sequence[Outcome]) -> Outcome:
    judged = [one for one in own if one.fake_probability is not None]
    if plain.error is not None or len(judged) < 2:
        return plain
    probabilities = [one.fake_probability or 0.0 for one in judged]
    return replace(
        plain,
        lowest=min(probabilities),
        highest=max(probabilities),
        unstable=any(one.called != plain.called for one in judged),
    )
