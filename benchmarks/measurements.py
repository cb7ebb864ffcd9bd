"""What is measured, and how: settings, the figures of each cell, their medians over the rounds."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import Any

Logits = tuple[float, ...]


class BenchmarkError(Exception):
    """There is nothing to measure, or what was measured is void; the message says why."""


@dataclass(frozen=True)
class RunSettings:
    """How to measure.

    Attributes:
        images: Image files.
        clients: How many ask at a time, by turns.
        seconds: Of each measurement.
        warm_up_s: Seconds before each.
        gpu: CUDA device; None on a machine without.
        bfloat16: Whether the processor computes in bfloat16.
        config: TorchServe's settings.
        scratch: A folder of this run's own.
    """

    images: tuple[Path, ...]
    clients: tuple[int, ...]
    seconds: float
    warm_up_s: float
    gpu: int | None
    bfloat16: bool
    config: Path
    scratch: Path

    @property
    def image_names(self) -> tuple[str, ...]:
        """The image files as jobs name them."""
        return tuple(str(image) for image in self.images)


class Scenario(StrEnum):
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
    way: Scenario
    size: int

    def __str__(self) -> str:
        if self.way is Scenario.SCRIPT:
            return f"{self.contender}, {self.way}"
        what, where = ("client", "") if self.way is Scenario.SERVED else ("image", " a pass")
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


@dataclass(frozen=True)
class Stages:
    """Where the time of a batch goes, each stage measured alone, with all cores it can use.

    Attributes:
        size: Images in the batch.
        decode_ms: Bytes to RGB.
        align_ms: RGB to aligned faces; 0 where the card aligns none.
        resize_ms: RGB to the encoder's pixels.
        engine_ms: Pixels to logits.
        answer_ms: Logits to JSON texts.
    """

    size: int
    decode_ms: float
    align_ms: float
    resize_ms: float
    engine_ms: float
    answer_ms: float

    @property
    def times_ms(self) -> tuple[float, ...]:
        """Of all stages, in the order in which an image meets them."""
        return self.decode_ms, self.align_ms, self.resize_ms, self.engine_ms, self.answer_ms


@dataclass
class Measurements:
    """What was measured so far.

    Attributes:
        say: Told each cell in a line.
        cells: In the order of their measurement.
        starts: Likewise.
        stages: Of the last round, by contender.
        differences: Largest difference of a served answer's logits from the expected ones, by
            contender.
    """

    say: Callable[[str], None]
    cells: list[Cell] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    stages: dict[str, tuple[Stages, ...]] = field(default_factory=dict)
    differences: dict[str, float] = field(default_factory=dict)

    def add(self, cell: Cell) -> None:
        """Keeps a cell, and tells of it."""
        self.cells.append(cell)
        figures = cell.figures
        self.say(
            f"round {cell.round}: {cell.place}: {figures.images_per_s:.2f} images/s, "
            f"p50 {figures.p50_ms:.0f} ms"
        )

    def note_difference(self, contender: str, difference: float) -> None:
        """Keeps the largest one."""
        self.differences[contender] = max(difference, self.differences.get(contender, 0.0))


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
    for name in (one.name for one in fields(Figures)):
        column = [getattr(one, name) for one in figures]
        middle[name] = None if None in column else median(column)
    return Figures(**middle)


def largest_difference(found: Logits, expected: Logits) -> float:
    """Returns the largest absolute difference of two images' logits; infinite for other shapes."""
    if len(found) != len(expected):
        return float("inf")
    return max(abs(one - other) for one, other in zip(found, expected, strict=True))
