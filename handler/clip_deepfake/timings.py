"""Stages of the work as they begin and end in, what each of them took out."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Literal

Stage = Literal["decode", "align", "preprocess", "engine"]


@dataclass(frozen=True)
class Spent:
    """What one stage took.

    Attributes:
        seconds: summed over the pictures; of stages that run side by side, more than the clock's.
        pictures: that went through it: images, and from `preprocess` on faces where these are
            judged.
    """

    seconds: float = 0.0
    pictures: int = 0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.seconds + other.seconds, self.pictures + other.pictures)


@dataclass(frozen=True)
class Timings:
    """What a batch spent its time on; a picture that was refused counts in the stage that did."""

    decode: Spent = Spent()
    align: Spent = Spent()
    preprocess: Spent = Spent()
    engine: Spent = Spent()

    def stages(self) -> Iterator[tuple[str, Spent]]:
        """Yields each stage's name with what it took, in the order of the work."""
        for field in fields(self):
            yield field.name, getattr(self, field.name)


class Stopwatch:
    """Times the stages of work that one thread does; the threads' watches are summed afterwards."""

    def __init__(self) -> None:
        """Starts at nothing."""
        self._spent: dict[Stage, Spent] = {}

    @contextmanager
    def timing(self, stage: Stage, pictures: int = 1) -> Iterator[None]:
        """Adds what the block takes to a stage, also when it raises."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, Spent(time.perf_counter() - begun, pictures))

    def add(self, stage: Stage, spent: Spent) -> None:
        """Adds to a stage what was measured elsewhere."""
        self._spent[stage] = self._spent.get(stage, Spent()) + spent

    @staticmethod
    def total(watches: Iterable["Stopwatch"]) -> Timings:
        """Sums what several watches measured."""
        total = Stopwatch()
        for watch in watches:
            for stage, spent in watch._spent.items():
                total.add(stage, spent)
        return Timings(**total._spent)
