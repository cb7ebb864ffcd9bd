"""Counts of answers as they came in, the time until the rate was back out."""

from bisect import bisect_right
from collections.abc import Sequence

BEFORE_S = 4.0
WINDOW_S = 2.0

FULL = 0.8
"""The share of the rate before that counts as full: a batch more or less in two seconds is 5 %."""

Progress = Sequence[tuple[float, int]]
"""Moments in seconds, rising, each with how many answers had come by then."""


def rate(progress: Progress, begin: float, end: float) -> float:
    """Returns answers a second between two moments."""
    return (_count(progress, end) - _count(progress, begin)) / (end - begin)


def recovery_s(progress: Progress, damage: float) -> float | None:
    """Returns how long after some damage answers came as fast as before.

    Args:
        progress: Of the whole run.
        damage: When it was done.

    Returns:
        Seconds from the damage to the first moment that begins two seconds at 80 % of the rate of
        the four seconds before it; None when there was no such moment, or no answer before.
    """
    wanted = FULL * rate(progress, damage - BEFORE_S, damage)
    if not wanted:
        return None
    last = progress[-1][0] - WINDOW_S
    begins = (moment for moment, _ in progress if damage <= moment <= last)
    found = (
        begin - damage for begin in begins if rate(progress, begin, begin + WINDOW_S) >= wanted
    )
    return next(found, None)


def _count(progress: Progress, moment: float) -> int:
    index = bisect_right(progress, moment, key=lambda entry: entry[0])
    return progress[index - 1][1] if index else 0
