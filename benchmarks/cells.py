"""Single measurements in, their medians over the rounds out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from statistics import median
from typing import Any


class BenchmarkError(Exception):
    """There is nothing to measure, or what was measured is void; the message says why."""


class Way(StrEnum):
    """How images get to a model."""

    ENGINE = "engine alone"
    PROCESS = "one process"
    SERVED = "served"
    SCRIPT = "new process per image"


@dataclass(frozen=True)
class Place:
    """What is measured.

    Attributes:
        contender: Its name.
        way: How the images get to it.
        size: Clients where it is served, otherwise images in one pass.
    """

    contender: str
    way: Way
    size: int

    def __str__(self) -> str:
        if self.way is Way.SCRIPT:
            return f"{self.contender}, {self.way}"
        what, where = ("client", "") if self.way is Way.SERVED else ("image", " a pass")
        return f"{self.contender}, {self.way}, {self.size} {what}{'s' * (self.size > 1)}{where}"


@dataclass(frozen=True)
class Figures:
    """How fast it was.

    Attributes:
        images_per_s: Answered images a second.
        mean_ms: Mean time of a request, or of a pass where there are none.
        p50_ms: Its median.
        p95_ms: Its 95th percentile.
        p99_ms: Its 99th percentile.
        cpu_cores: Processor cores that it kept busy on average.
        load_cores: The same of the load process.
        other_cores: The same of all else on the machine, which should be idle.
        memory_mb: Resident memory of its largest process, in 10**6 bytes.
        memory_growth: The share by which it grew after the first 20 s; None in a shorter time.
        queue_ms: Mean time that TorchServe kept a request in its queue and batch window.
        server_ms: Mean time from a request's arrival in TorchServe to its answer.
    """

    images_per_s: float
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    cpu_cores: float | None = None
    load_cores: float | None = None
    other_cores: float | None = None
    memory_mb: float | None = None
    memory_growth: float | None = None
    queue_ms: float | None = None
    server_ms: float | None = None


@dataclass(frozen=True)
class Cell:
    """One measurement.

    Attributes:
        place: What was measured.
        round: When; rounds count from 1.
        figures: How fast it was.
    """

    place: Place
    round: int
    figures: Figures


@dataclass(frozen=True)
class Start:
    """How a served contender came up.

    Attributes:
        contender: Its name.
        round: When.
        ready_s: Seconds from its registration, or its process's start, until it took requests.
    """

    contender: str
    round: int
    ready_s: float


def medians(cells: Iterable[Cell]) -> dict[Place, Figures]:
    """Returns the median over the rounds of each figure on its own, in the order of the first."""
    groups: dict[Place, list[Figures]] = {}
    for cell in cells:
        groups.setdefault(cell.place, []).append(cell.figures)
    return {place: _median(figures) for place, figures in groups.items()}


def median_starts(starts: Iterable[Start]) -> dict[str, float]:
    """Returns each contender's median time until it was ready, in seconds."""
    times: dict[str, list[float]] = {}
    for start in starts:
        times.setdefault(start.contender, []).append(start.ready_s)
    return {contender: median(seconds) for contender, seconds in times.items()}


def _median(figures: Sequence[Figures]) -> Figures:
    middle: dict[str, Any] = {}
    for name in (field.name for field in fields(Figures)):
        column = [getattr(one, name) for one in figures]
        middle[name] = None if None in column else median(column)
    return Figures(**middle)
