"""What all measurements of a run have in common, and where they go."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.cells import Cell, Start
from benchmarks.jobs import Stages

START_WARM_UP = 4.0
"""Warm-ups that a server gets at first: Java compiles what it runs often."""


@dataclass(frozen=True)
class Plan:
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
    def warm_up(self) -> "Plan":
        """The same for a server that has just come up: nothing of it is kept."""
        return replace(self, seconds=START_WARM_UP * self.warm_up_s)

    @property
    def image_names(self) -> tuple[str, ...]:
        """The image files as jobs name them."""
        return tuple(str(image) for image in self.images)


@dataclass
class Record:
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
