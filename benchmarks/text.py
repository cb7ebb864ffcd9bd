"""Figures in, the tables that a person reads out."""

from collections.abc import Iterable, Mapping, Sequence

from deepfake_tools.text_table import table

from benchmarks.cells import Cell, Figures, Place
from benchmarks.goals import Goal
from benchmarks.machine import Machine
from benchmarks.profile import RequestTime

HEADER = (
    "contender",
    "way",
    "size",
    "images/s",
    "(rounds)",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "cores",
    "load",
    "others",
    "MB",
)
STAGE_HEADER = (
    "contender",
    "clients",
    "total",
    "wait",
    "transport",
    "worker",
    "at once",
    "stages of",
    "decode",
    "align",
    "resize",
    "engine",
    "answer",
    "rest",
)


def machine_text(machine: Machine) -> str:
    """Describes the machine in some lines."""
    libraries = ", ".join(f"{name} {version}" for name, version in machine.libraries.items())
    lines = [
        f"machine    {machine.cpu}, {machine.cores} cores, {machine.memory_gb:g} GB",
        f"           {' '.join(machine.flags) or 'no instructions of note'}",
        f"gpu        {', '.join(machine.gpus) or 'none'}",
        f"system     {machine.system}",
        f"libraries  {libraries}",
    ]
    return "\n".join(lines)


def cells_text(medians: Mapping[Place, Figures], cells: Iterable[Cell]) -> str:
    """Lists the medians, and the lowest and highest throughput of a round."""
    speeds: dict[Place, list[float]] = {}
    for cell in cells:
        speeds.setdefault(cell.place, []).append(cell.figures.images_per_s)
    rows = [_cell_row(place, figures, speeds[place]) for place, figures in medians.items()]
    return table([HEADER, *rows])


def _cell_row(place: Place, figures: Figures, speeds: Sequence[float]) -> tuple[str, ...]:
    return (
        place.contender,
        place.way,
        str(place.size),
        f"{figures.images_per_s:.2f}",
        f"{min(speeds):.2f}-{max(speeds):.2f}",
        f"{figures.p50_ms:.0f}",
        f"{figures.p95_ms:.0f}",
        f"{figures.p99_ms:.0f}",
        _optional(figures.cpu_cores, 2),
        _optional(figures.load_cores, 2),
        _optional(figures.other_cores, 2),
        _optional(figures.memory_mb, 0),
    )


def _optional(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def goals_text(goals: Iterable[Goal]) -> str:
    """Lists what was reached, what was wanted, and whether it was."""
    rows = [
        (
            goal.contender,
            goal.what,
            f"{goal.reached:.2f} {goal.unit}",
            _wanted(goal),
            goal.verdict,
        )
        for goal in goals
    ]
    return table([("contender", "figure", "reached", "goal", ""), *rows])


def _wanted(goal: Goal) -> str:
    if goal.wanted is None:
        return "none"
    return f"{'at most' if goal.at_most else 'at least'} {goal.wanted:.2f}"


def profile_text(times: Iterable[RequestTime]) -> str:
    """Lists where a request's time goes, in milliseconds."""
    rows = [
        (
            time.contender,
            str(time.clients),
            f"{time.total_ms:.1f}",
            f"{time.wait_ms:.1f}",
            f"{time.transport_ms:.1f}",
            f"{time.worker_ms:.1f}",
            f"{time.at_once:.1f}",
            str(time.batch),
            f"{time.decode_ms:.1f}",
            f"{time.align_ms:.1f}",
            f"{time.resize_ms:.1f}",
            f"{time.engine_ms:.1f}",
            f"{time.answer_ms:.1f}",
            f"{time.rest_ms:.1f}",
        )
        for time in times
    ]
    return table([STAGE_HEADER, *rows])
