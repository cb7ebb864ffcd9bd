"""The report of a benchmark: its tables, its JSON, its plot, and where a request's time goes."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepfake_tools.files import replacing
from deepfake_tools.text_table import table

from benchmarks.contenders import ArchiveContender
from benchmarks.goals import Goal, Subject, find_goals
from benchmarks.machine import Machine
from benchmarks.measurements import (
    Cell,
    Figures,
    Measurements,
    Place,
    RunSettings,
    Scenario,
    Stages,
    median_starts,
    medians,
)
from benchmarks.rivals import LITSERVE_FLOAT32, preparation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

UNDISTURBED_SHARE = 0.1
"""Of the machine's cores that may be busy with something else during a measurement."""

HEADER = (
    *("contender", "way", "size", "images/s", "(rounds)", "p50 ms", "p95 ms", "p99 ms"),
    *("cores", "load", "others", "MB"),
)
STAGE_HEADER = (
    *("contender", "clients", "total", "wait", "transport", "worker", "at once", "stages of"),
    *("decode", "align", "resize", "engine", "answer", "rest"),
)

# Okabe and Ito's colours, which people with any colour vision tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = "osD^vP"
STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class RequestTime:
    """A mean request, in milliseconds.

    Attributes:
        contender: Who answered.
        clients: How many asked at a time.
        at_once: Requests that the worker has in hand on average, by Little's law.
        total_ms: By the client's clock.
        wait_ms: In TorchServe's queue and batch window.
        transport_ms: Between client and TorchServe.
        worker_ms: From leaving the queue to the answer.
        stages: Of a batch about as large as that, in one process.
    """

    contender: str
    clients: int
    at_once: float
    total_ms: float
    wait_ms: float
    transport_ms: float
    worker_ms: float
    stages: Stages

    @property
    def rest_ms(self) -> float:
        """The worker's time beyond its stages: the way to it and back, and its own batching."""
        return self.worker_ms - sum(self.stages.times_ms)

    def as_json(self) -> dict[str, object]:
        """Returns it as the JSON has it: the stages are the request's own, the batch's size too."""
        own, stages = asdict(self), asdict(self.stages)
        own["batch"] = stages.pop("size")
        del own["stages"]
        return own | stages | {"rest_ms": self.rest_ms}


def profile(
    medians: Mapping[Place, Figures], stages: Mapping[str, Sequence[Stages]]
) -> Iterator[RequestTime]:
    """Yields a line for each contender with stages and each number of clients.

    Wait and transport are TorchServe's own counters against the clients' clocks. What happens
    inside the worker is measured in one process, each stage alone, on a batch about as large as the
    worker has at once; where it overlaps stages, their sum is more than a request's share.
    """
    for place, figures in medians.items():
        by_size = {one.size: one for one in stages.get(place.contender, ())}
        if place.way is not Scenario.SERVED or not by_size:
            continue
        if figures.queue_ms is None or figures.server_ms is None:
            continue
        worker_ms = figures.server_ms - figures.queue_ms
        at_once = figures.images_per_s * worker_ms / 1e3
        batch = by_size[min(by_size, key=lambda size: abs(size - at_once))]
        yield RequestTime(
            contender=place.contender,
            clients=place.size,
            at_once=at_once,
            total_ms=figures.mean_ms,
            wait_ms=figures.queue_ms,
            transport_ms=figures.mean_ms - figures.server_ms,
            worker_ms=worker_ms,
            stages=batch,
        )


@dataclass(frozen=True)
class BenchmarkReport:
    """A run.

    Attributes:
        machine: What it ran on.
        settings: How it was measured.
        rounds: How often.
        archives: Those that took part.
        measurements: What was measured.
    """

    machine: Machine
    settings: RunSettings
    rounds: int
    archives: Sequence[ArchiveContender]
    measurements: Measurements

    @cached_property
    def medians(self) -> dict[Place, Figures]:
        """Over the rounds."""
        return medians(self.measurements.cells)

    @cached_property
    def goals(self) -> list[Goal]:
        """Ratios and bounds."""
        subjects = [
            Subject(one.name, one.archive.card.precision, one.archive.card.encoder.operations)
            for one in self.archives
        ]
        return find_goals(self.medians, median_starts(self.measurements.starts), subjects)

    @cached_property
    def disturbed(self) -> list[Cell]:
        """Cells during which something else was at work on the machine."""
        most = UNDISTURBED_SHARE * self.machine.cores
        return [
            cell for cell in self.measurements.cells if (cell.figures.other_cores or 0.0) > most
        ]

    @cached_property
    def profile(self) -> list[RequestTime]:
        """Where requests spent their time; empty unless the stages were timed."""
        return list(profile(self.medians, self.measurements.stages))

    def text(self) -> str:
        """Everything that a person wants to read."""
        parts = [
            _machine_text(self.machine) + "\n" + self._archives_text(),
            f"rounds {self.rounds}, interleaved, medians below; {self.settings.seconds:g} s a cell "
            f"({self.settings.seconds / 2:g} s in one process); size: clients where served, else "
            "images a pass; cores: kept busy by the contender, by the load process, by others\n"
            + cells_text(self.medians, self.measurements.cells),
            self._answers_text(),
            goals_text(self.goals),
        ]
        if self.disturbed:
            parts.append(self._disturbed_text())
        if self.profile:
            parts.append(
                "where the time of a mean request goes, in ms; the stages are a whole batch's, "
                f"measured in one process\n{profile_text(self.profile)}"
            )
        return "\n\n".join(parts)

    def _archives_text(self) -> str:
        return "\n".join(
            f"archive    {one.name}: {one.archive.path.name}, "
            f"{one.archive.card.model.name}, {one.answers.engine}, batches of "
            f"{one.archive.batch_size}, preprocessing {one.archive.card.preprocessing.name}"
            for one in self.archives
        )

    def _disturbed_text(self) -> str:
        lines = ["DISTURBED, and not to be quoted: something else was at work during"]
        lines += [
            f"  round {cell.round}: {cell.place}: {cell.figures.other_cores or 0.0:.2f} cores"
            for cell in self.disturbed
        ]
        return "\n".join(lines)

    def _answers_text(self) -> str:
        lines = ["every served answer was compared; largest difference of a logit:"]
        for contender, difference in self.measurements.differences.items():
            ours = any(one.name == contender for one in self.archives)
            others = f"our engine after {preparation(contender)}, which it uses"
            lines.append(
                f"  {contender}: {difference:.1e} from {'one process' if ours else others}"
            )
        if LITSERVE_FLOAT32 in self.measurements.differences and not self.settings.bfloat16:
            lines.append(
                "OpenVINO by itself computes in float32 on this processor, so there is one "
                "LitServe with it and no second one in bfloat16"
            )
        return "\n".join(lines)

    def write_json(self, path: Path) -> None:
        """Writes all of it as one JSON object.

        Raises:
            OSError: The file cannot be written.
        """
        content = {
            "machine": asdict(self.machine),
            "images": len(self.settings.images),
            "seconds": self.settings.seconds,
            "rounds": self.rounds,
            "archives": [_archive(one) for one in self.archives],
            "medians": [asdict(place) | asdict(figures) for place, figures in self.medians.items()],
            "ready_s": median_starts(self.measurements.starts),
            "goals": [asdict(goal) | {"verdict": goal.verdict} for goal in self.goals],
            "profile": [time.as_json() for time in self.profile],
            "disturbed": [asdict(cell.place) | {"round": cell.round} for cell in self.disturbed],
            "differences": self.measurements.differences,
            "cells": [asdict(cell) for cell in self.measurements.cells],
            "starts": [asdict(start) for start in self.measurements.starts],
        }
        with replacing(path) as file:
            file.write(json.dumps(content, indent=1) + "\n")


def _archive(contender: ArchiveContender) -> dict[str, object]:
    archive = contender.archive
    return {
        "label": contender.name,
        "file": archive.path.name,
        "model": archive.card.model.name,
        "precision": archive.card.precision,
        "engine": contender.answers.engine,
        "batch_size": archive.batch_size,
        "preprocessing": archive.card.preprocessing.name,
    }


def _machine_text(machine: Machine) -> str:
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
        (one.contender, one.what, f"{one.reached:.2f} {one.unit}", _wanted(one), one.verdict)
        for one in goals
    ]
    return table([("contender", "figure", "reached", "goal", ""), *rows])


def _wanted(goal: Goal) -> str:
    if goal.wanted is None:
        return "none"
    return f"{'at most' if goal.at_most else 'at least'} {goal.wanted:.2f}"


def profile_text(times: Iterable[RequestTime]) -> str:
    """Lists where a request's time goes, in milliseconds."""
    rows = []
    for time in times:
        way = (time.total_ms, time.wait_ms, time.transport_ms, time.worker_ms, time.at_once)
        inside = (*time.stages.times_ms, time.rest_ms)
        begin = (time.contender, str(time.clients), *(f"{value:.1f}" for value in way))
        rows.append((*begin, str(time.stages.size), *(f"{value:.1f}" for value in inside)))
    return table([STAGE_HEADER, *rows])


def write_plot(path: Path, medians: Mapping[Place, Figures], title: str) -> None:
    """Draws a line for each served contender, and a dashed one for its own single process.

    Args:
        path: Of the PNG.
        medians: What was measured.
        title: Says of what model, on what machine.

    Raises:
        OSError: The file cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a matplotlibrc of the user's is for other drawings
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(7.5, 4.5), layout="constrained")
        _draw(figure.add_subplot(), medians)
        figure.suptitle(title, fontsize=10)
        figure.savefig(path, dpi=150)


def _draw(axes: "Axes", medians: Mapping[Place, Figures]) -> None:
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    served = [place for place in medians if place.way is Scenario.SERVED]
    sizes = sorted({place.size for place in served})
    for number, contender in enumerate(dict.fromkeys(place.contender for place in served)):
        own = [place for place in served if place.contender == contender]
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(
            [place.size for place in own],
            [medians[place].images_per_s for place in own],
            color=colour,
            marker=MARKERS[number % len(MARKERS)],
            label=f"{contender}, served",
        )
        for place, figures in medians.items():
            if place.contender == contender and place.way is Scenario.PROCESS:
                label = f"{contender}, one process"
                axes.axhline(figures.images_per_s, color=colour, linestyle="--", label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="clients", ylabel="images a second")
    axes.set_ylim(bottom=0)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
