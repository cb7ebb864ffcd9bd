"""Percentiles, interpolated as numpy does, with nothing but Python."""

from collections.abc import Sequence


def percentile(values: Sequence[float], share: float) -> float:
    """Returns the value below which a share lies, interpolated as numpy does by default.

    Args:
        values: In any order; at least one.
        share: From 0 to 1.
    """
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
