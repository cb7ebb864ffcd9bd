"""Thresholds by order statistics of scores, what they guarantee, and tables that hold them.

The realised rate of false alarms of the k-th smallest of n continuous, independent scores has a
beta distribution (Vovk, Conditional validity of inductive conformal predictors, ACML 2012); where
scores are tied it is smaller.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from clip_deepfake.decision import fewest_images, kept_ranks, tail_rank, watched_rates

from deepfake_tools.evaluation.figures import CONFIDENCE, Interval


class TooFewImagesError(Exception):
    """A rate that so few images cannot hold; the message says how many would."""


@dataclass(frozen=True)
class Guarantee:
    """What a threshold holds for images like those that it was made by.

    Attributes:
        mean: The rate on average over calibrations.
        interval: In which this calibration's own rate lies, with a probability of 95 %.
    """

    mean: float
    interval: Interval


def threshold(margins: Sequence[float], rate: float, what: str) -> float:
    """Returns the margin above which at most a share `rate` of further real images lies.

    Args:
        margins: Of real images, ascending.
        rate: Above 0, below 1.
        what: The option that asks for the rate, for the message.

    Raises:
        TooFewImagesError: There are fewer than 1 / rate - 1.
    """
    instead = f", or a rate of {1 / (len(margins) + 1):.3g} or more"
    rank = _rank(len(margins), rate, f"real images cannot hold {what}", instead)
    return margins[len(margins) - rank]


def lowest_fakes(margins: Sequence[float], rate: float, what: str) -> float:
    """Returns the largest margin up to which at most a share `rate` of further fakes lies.

    Args:
        margins: Of fake images, ascending.
        rate: Above 0, below 1.
        what: The option that asks for the rate, for the message.

    Raises:
        TooFewImagesError: There are fewer than 1 / rate - 1.
    """
    rank = _rank(len(margins), rate, f"fake images cannot hold {what}")
    # The one itself may be a fake: what is below it is not.
    return math.nextafter(margins[rank - 1], -math.inf)


def _rank(images: int, rate: float, complaint: str, instead: str = "") -> int:
    """`tail_rank`, where there are enough images for it."""
    if rank := tail_rank(rate, images):
        return rank
    raise TooFewImagesError(
        f"{images} {complaint} {rate:g}: it takes {fewest_images(rate):,} at least{instead}"
    )


def guarantee(images: int, rate: float) -> Guarantee:
    """Returns what the threshold of a rate holds.

    Args:
        images: How many, enough for the rate.
        rate: That `threshold` was given.
    """
    from scipy.stats import beta  # takes half a second

    rank = tail_rank(rate, images)
    tail = (1 - CONFIDENCE) / 2
    low, high = beta.ppf((tail, 1 - tail), rank, images + 1 - rank)
    return Guarantee(rank / (images + 1), (float(low), float(high)))


def share_interval(count: int, images: int) -> Interval:
    """Returns the 95 % interval of a share by so many of so many images (Clopper and Pearson)."""
    from scipy.stats import beta

    tail = (1 - CONFIDENCE) / 2
    low = 0.0 if count == 0 else float(beta.ppf(tail, count, images - count + 1))
    high = 1.0 if count == images else float(beta.ppf(1 - tail, count + 1, images - count))
    return low, high


def table(
    margins: Sequence[float], false_alarms: float, unsure: float | None
) -> tuple[list[int], list[float]]:
    """Returns the ranks and the margins that a card keeps.

    Args:
        margins: Of all real images, ascending.
        false_alarms: The rate of the threshold.
        unsure: That of the band, if any.
    """
    ranks = kept_ranks(len(margins), watched_rates(false_alarms, unsure))
    return ranks, [margins[len(margins) - rank] for rank in ranks]
