"""The goals of a benchmark: ratios of what was measured side by side, and bounds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.measurements import Figures, Place, Scenario
from benchmarks.rivals import LITSERVE, LITSERVE_BFLOAT16, LITSERVE_FLOAT32

MANY_CLIENTS = 16
LARGE_OPERATIONS = 100_000_000_000
"""For one image: ViT-L/14 has half as many again, ViT-B/16 a third."""

LARGE_SHARE = 0.9
"""Of the goals for ViT-B/32, against transformers, that larger encoders are to reach."""


@dataclass(frozen=True)
class Times:
    """How many times as fast as a rival one is to be, with one client and with many."""

    one: float
    many: float


TIMES: Mapping[str, Mapping[str, Times]] = {
    LITSERVE: {"float32": Times(1.9, 1.4), "int8": Times(5.0, 4.0)},
    LITSERVE_FLOAT32: {"float32": Times(1.05, 1.2)},
    LITSERVE_BFLOAT16: {"bfloat16": Times(1.3, 1.4), "int8": Times(2.0, 2.0)},
}
"""By rival, and by one's precision; where there is no goal, the ratio is told still."""

OF_PROCESS = 0.9
READY_S = 6.0
MEMORY_MB = {"float32": 900.0, "int8": 420.0}
CROWD = 64
"""Clients of whom the slowest hundredth may wait as many times as long as one alone does."""

MEMORY_GROWTH = 0.03
"""After the first 20 s of load."""


@dataclass(frozen=True)
class Subject:
    """A contender with goals.

    Attributes:
        contender: Its name.
        precision: On its card.
        operations: Of its encoder, for one image.
    """

    contender: str
    precision: str
    operations: int


@dataclass(frozen=True)
class Goal:
    """One figure and what it should be.

    Attributes:
        contender: Whose.
        what: In words.
        reached: The figure.
        unit: Its unit.
        wanted: The goal; None where there is none.
        at_most: Whether it is an upper bound.
    """

    contender: str
    what: str
    reached: float
    unit: str
    wanted: float | None
    at_most: bool = False

    @property
    def verdict(self) -> str:
        """Says whether the goal is met, or by how much it is missed."""
        if self.wanted is None:
            return ""
        off = self.reached / self.wanted - 1
        if (off > 0) == self.at_most and off != 0:
            return f"MISSED by {abs(off):.1%}"
        return "met"


def find_goals(
    medians: Mapping[Place, Figures],
    ready_s: Mapping[str, float],
    subjects: Sequence[Subject],
) -> list[Goal]:
    """Compares what was measured.

    Args:
        medians: Over the rounds.
        ready_s: Median seconds until READY, by contender.
        subjects: Whose goals.
    """
    return [goal for subject in subjects for goal in _of_subject(subject, medians, ready_s)]


def _of_subject(
    subject: Subject,
    medians: Mapping[Place, Figures],
    ready_s: Mapping[str, float],
) -> Iterator[Goal]:
    name, precision = subject.contender, subject.precision
    is_large = subject.operations >= LARGE_OPERATIONS
    share = LARGE_SHARE if is_large else 1.0
    served = _by_size(medians, name, Scenario.SERVED)
    many = MANY_CLIENTS if MANY_CLIENTS in served else max(served)
    for rival in TIMES:
        yield from _against(subject, rival, share if rival == LITSERVE else 1.0, many, medians)
    for size, process in _by_size(medians, name, Scenario.PROCESS).items():
        ratio = served[many].images_per_s / process.images_per_s
        what = f"{_clients(many)}, against one process in batches of {size}"
        yield Goal(name, what, ratio, "times", share * OF_PROCESS)
    ready, memory = (None, None) if is_large else (READY_S, MEMORY_MB.get(precision))
    yield Goal(name, "register to READY", ready_s[name], "s", ready, at_most=True)
    largest = max(figures.memory_mb or 0.0 for figures in served.values())
    yield Goal(name, "worker memory", largest, "MB", memory, at_most=True)
    yield from _of_long_load(name, served)


def _against(
    subject: Subject, rival: str, share: float, many: int, medians: Mapping[Place, Figures]
) -> Iterator[Goal]:
    """Where the rival was measured."""
    served = _by_size(medians, subject.contender, Scenario.SERVED)
    against = _by_size(medians, rival, Scenario.SERVED)
    times = TIMES[rival].get(subject.precision)
    wishes = {many: share * times.many, 1: share * times.one} if times else {many: None, 1: None}
    for clients in sorted(served.keys() & against.keys() & wishes.keys(), reverse=True):
        ratio = served[clients].images_per_s / against[clients].images_per_s
        what = f"{_clients(clients)}, against {rival}"
        yield Goal(subject.contender, what, ratio, "times", wishes[clients])


def _of_long_load(name: str, served: Mapping[int, Figures]) -> Iterator[Goal]:
    """Where the load lasted long enough to say something of it."""
    for clients, figures in served.items():
        if figures.memory_growth is None:
            continue
        what = f"{_clients(clients)}, growth of memory after 20 s"
        growth, wanted = 100 * figures.memory_growth, 100 * MEMORY_GROWTH
        yield Goal(name, what, growth, "%", wanted, at_most=True)
        if clients == CROWD and 1 in served:
            what = f"{_clients(clients)}, 99th percentile against one client's median"
            ratio = figures.p99_ms / served[1].p50_ms
            yield Goal(name, what, ratio, "times", float(CROWD), at_most=True)


def _clients(count: int) -> str:
    return "1 client" if count == 1 else f"{count} clients"


def _by_size(medians: Mapping[Place, Figures], contender: str, way: Scenario) -> dict[int, Figures]:
    return {
        place.size: figures
        for place, figures in medians.items()
        if (place.contender, place.way) == (contender, way)
    }
