"""The decision on a card: how fake an image is among the user's own real ones, and what follows.

Real images that were scored once bound the false alarms on others like them, whatever the scores
mean: with n exchangeable ones, a new one is above the k-th smallest margin with a probability of
at most (n + 1 - k) / (n + 1). Split conformal prediction: Vovk, Gammerman and Shafer, Algorithmic
Learning in a Random World, 2005; p-values as in Bates et al., Testing for outliers with conformal
p-values, Annals of Statistics 51, 2023.
"""

import math
from bisect import bisect_left
from fractions import Fraction
from itertools import pairwise
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta, Struct

from clip_deepfake.archive_files import Sha256
from clip_deepfake.errors import LoadError

Ruling = Literal["FAKE", "REAL", "UNSURE"]
RULINGS: tuple[Ruling, ...] = get_args(Ruling)

Rate = Annotated[float, Meta(gt=0, lt=1)]
Images = Annotated[int, Meta(gt=0, le=1_000_000_000)]
Day = Annotated[str, Meta(pattern=r"^\d{4}-\d{2}-\d{2}$")]

EXACT_RANKS = 256
"""The share of the reals is exact among as many of the most fake ones ..."""

FINENESS = 50
"""... and beyond them too large by at most one in so many, which is less than chance does to it."""

WATCHED_RATES = (0.01, 0.05, 0.1)
"""Shares at which the counters of a worker count: exact too."""

MOST_RANKS = 1200
"""Of a table; a billion images have 1,021. In a card, 1,200 take less than 64 KB."""


class RealImages(Struct, frozen=True, forbid_unknown_fields=True):
    """The real images of a decision.

    Attributes:
        images: that count, each for itself.
        sha256: digest of the sorted SHA-256 of their files.
    """

    images: Images
    sha256: Sha256


class FakeImages(Struct, frozen=True, forbid_unknown_fields=True):
    """The fake images of a decision.

    Attributes:
        images: that count.
        missed: of them, those that are not called FAKE.
        sha256: digest of the sorted SHA-256 of their files.
    """

    images: Images
    missed: Annotated[int, Meta(ge=0)]
    sha256: Sha256


class Decision(Struct, frozen=True, forbid_unknown_fields=True):
    """When an image is called fake, real or neither, and by which real images.

    Attributes:
        detector: fingerprint of the detector that scored them (``Card.fingerprint``).
        false_alarms: the share of real images that may be called FAKE.
        fake_above: FAKE is a margin above it.
        real_up_to: REAL is a margin up to it; what lies between the two is UNSURE.
        unsure: the rate that set ``real_up_to``: of fakes that may be called REAL, or, without
            fakes, the share of the reals up to which nothing is called REAL; None without a band.
        scored_on: the day, in UTC, on which the images were scored.
        reals: the real images.
        fakes: the fake ones, where there were any.
        ranks: of some of the reals, from the least fake one, whose rank is their number, to the
            most fake one, whose rank is 1.
        margins: of the same ones, ascending.
    """

    schema: Literal[1]
    detector: Sha256
    false_alarms: Rate
    fake_above: float
    real_up_to: float
    unsure: Rate | None
    scored_on: Day
    reals: RealImages
    fakes: FakeImages | None
    ranks: Annotated[list[int], Meta(min_length=1, max_length=MOST_RANKS)]
    margins: Annotated[list[float], Meta(min_length=1, max_length=MOST_RANKS)]

    def __post_init__(self) -> None:
        """Refuses what contradicts itself, as a file does that was changed by hand.

        Raises:
            ValueError: naming it; msgspec makes it a ``ValidationError``.
        """
        self._check_table()
        self._check_levels()
        if self.fakes is not None and self.fakes.missed > self.fakes.images:
            raise ValueError(f"{self.fakes.missed} of {self.fakes.images} fakes missed")

    def _check_table(self) -> None:
        if not all(map(math.isfinite, (*self.margins, self.fake_above, self.real_up_to))):
            raise ValueError("a margin that is no finite number")
        wanted = kept_ranks(self.reals.images, watched_rates(self.false_alarms, self.unsure))
        if self.ranks != wanted or len(self.margins) != len(wanted):
            raise ValueError(
                f"{len(self.margins)} margins at {len(self.ranks)} ranks are not those that a "
                f"table of {self.reals.images} real images holds"
            )
        if any(lower > upper for lower, upper in pairwise(self.margins)):
            raise ValueError("margins that do not ascend")

    def _check_levels(self) -> None:
        if self.fake_above != self._level(self.false_alarms):
            raise ValueError(
                f"fake_above {self.fake_above} is not the threshold of {self.false_alarms} false "
                "alarms by the margins"
            )
        if self.real_up_to > self.fake_above:
            raise ValueError(f"real_up_to {self.real_up_to} is above fake_above {self.fake_above}")
        if self.unsure is None and self.real_up_to != self.fake_above:
            raise ValueError("a band of UNSURE without the rate that sets it")
        by_reals = self.unsure is not None and self.fakes is None
        if by_reals and self.real_up_to != self._level(self.unsure or 0):
            raise ValueError(f"real_up_to {self.real_up_to} is not the level of {self.unsure}")

    def _level(self, rate: float) -> float:
        """The margin above which that share of real images lies at most."""
        rank = tail_rank(rate, self.reals.images)
        if rank < 1:
            raise ValueError(
                f"{self.reals.images} real images cannot hold a rate of {rate}: "
                f"{fewest_images(rate)} are needed"
            )
        return self.margins[self.ranks.index(rank)]

    def to_json(self) -> bytes:
        """The decision as it stands in a file of its own."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    def false_alarm_rate(self, margin: float) -> float:
        """The conformal p-value: which share of the reals looks at least as fake.

        The image itself counts as one of them, so that of real images like them at most a share of
        p has a p-value of at most p.

        Args:
            margin: of an image, finite.

        Returns:
            In (0, 1]; rounded up where the table leaves out images of like margins.
        """
        below = bisect_left(self.margins, margin)
        # The last one below it tells that all behind it are, and that those before may not be.
        at_least_as_fake = self.ranks[below - 1] - 1 if below else self.reals.images
        return (at_least_as_fake + 1) / (self.reals.images + 1)

    def rule(self, margin: float) -> Ruling:
        """What an image of this margin is called."""
        if margin > self.fake_above:
            return "FAKE"
        return "REAL" if margin <= self.real_up_to else "UNSURE"


def tail_rank(rate: float, images: int) -> int:
    """The rank, from the most fake one, of the image whose margin is the threshold of a rate.

    It is n + 1 - k for the k-th smallest margin, k = ⌈(n + 1)(1 - rate)⌉, computed with the rate
    as it is written: as a binary fraction, 0.01 of 100 images would be a little more than one.

    Returns:
        0 where there are too few images for this rate.
    """
    return math.floor(Fraction(str(rate)) * (images + 1))


def fewest_images(rate: float) -> int:
    """How many images hold a rate: 1 / rate - 1, rounded up."""
    return math.ceil(1 / Fraction(str(rate))) - 1


def watched_rates(false_alarms: float, unsure: float | None) -> tuple[float, ...]:
    """The rates at which the share of a table is exact."""
    return (*WATCHED_RATES, false_alarms, *(() if unsure is None else (unsure,)))


def kept_ranks(images: int, rates: tuple[float, ...]) -> list[int]:
    """Which of so many margins a table holds.

    Args:
        images: 1 or more.
        rates: at which shares are exact.

    Returns:
        Ranks, 1 being the most fake image's, descending: all up to ``EXACT_RANKS``, then one in
        steps that grow with them, that of each rate, and the last one.
    """
    ranks = {rank for rate in rates if (rank := tail_rank(rate, images))} | {images}
    rank = 1
    while rank < images:
        ranks.add(rank)
        rank += 1 if rank < EXACT_RANKS else rank // FINENESS
    return sorted(ranks, reverse=True)


def parse_decision(data: bytes) -> Decision:
    """Reads a decision.

    Args:
        data: JSON as ``Decision.to_json`` writes it.

    Raises:
        LoadError: when it is none, or contradicts itself.
    """
    try:
        return msgspec.json.decode(data, type=Decision)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise LoadError(
            f"it is no decision that this version reads, or one that contradicts itself ({error}): "
            "make it again by calibrate.py"
        ) from error
