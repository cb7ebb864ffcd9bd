"""The most confident mistakes of a run, of however many."""

import heapq
from typing import Generic, TypeVar

T = TypeVar("T")


class Mistakes(Generic[T]):
    """The most confident mistakes of those that it was told of.

    Args:
        most: How many it keeps.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._told = 0
        self._worst: list[tuple[tuple[float, ...], int, T]] = []

    def add(self, wrong: tuple[float, ...], what: T) -> None:
        """Takes in one.

        Args:
            wrong: How far it is on the wrong side; of equal numbers the next one decides.
            what: The mistake.
        """
        # Of equally wrong ones the first in the run come first, so that runs can be compared.
        self._told += 1
        entry = (wrong, -self._told, what)
        if len(self._worst) < self._most:
            heapq.heappush(self._worst, entry)
        else:
            heapq.heappushpop(self._worst, entry)

    def worst(self) -> tuple[T, ...]:
        """Returns them, the most confident one first."""
        return tuple(what for *_, what in sorted(self._worst, reverse=True))
