"""What is measured in interleaved rounds: archives by themselves and served, and their rivals."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Protocol

import msgspec
from clip_deepfake.card import ENCODER_FILE
from clip_deepfake.preprocessing import Preprocessing
from deepfake_tools.operations import rollout
from deepfake_tools.percentiles import percentile
from deepfake_tools.torchserve.local_server import LocalServer

from benchmarks.archives import Unpacked
from benchmarks.in_process import InProcessJob, InProcessResult, Timing
from benchmarks.load import prediction
from benchmarks.load_process import LoadJob, ServerUsage, measure_served, read_counters
from benchmarks.machine import ProcessTree, busy_s, memory_mb
from benchmarks.measurements import Cell, Figures, Measurements, Place, RunSettings, Scenario, Start
from benchmarks.processes import child
from benchmarks.rivals import line_up_rivals, preprocessings, write_checkpoint

READY_LIMIT_S = 180.0


class Contender(Protocol):
    """Whatever is measured."""

    def measure(self, number: int, settings: RunSettings, measurements: Measurements) -> None:
        """Measures everything once, alone on the machine, as round ``number``."""
        ...


@dataclass(frozen=True)
class ArchiveContender:
    """An archive of this project.

    Attributes:
        archive: What to measure.
        answers: Its own to the settings' images, from one process, that all others are compared
            with.
        stages: Whether to time the stages of a batch too.
    """

    archive: Unpacked
    answers: InProcessResult
    stages: bool

    @property
    def name(self) -> str:
        """What its figures are listed under."""
        return self.archive.label

    def measure(self, number: int, settings: RunSettings, measurements: Measurements) -> None:
        """Measures it in one process, then behind a TorchServe of its own."""
        self._measure_process(number, settings, measurements)
        store = self.archive.path.parent
        with LocalServer(store, settings.config, settings={"load_models": ""}) as server:
            pids = self._register(server, number, measurements)
            self._load(server, pids, number, settings, measurements)

    def _measure_process(
        self, number: int, settings: RunSettings, measurements: Measurements
    ) -> None:
        job = in_process_job(self.archive, settings, stages=self.stages)
        result = run_in_process(job, settings)
        for timing in result.passes:
            place = Place(self.name, Scenario.ENGINE, timing.size)
            measurements.add(Cell(place, number, _figures(timing, result.memory_mb)))
        place = Place(self.name, Scenario.PROCESS, result.judged.size)
        measurements.add(Cell(place, number, _figures(result.judged, result.memory_mb)))
        measurements.stages[self.name] = result.stages

    def _register(self, server: LocalServer, number: int, measurements: Measurements) -> list[int]:
        """Brings the archive up and returns its workers' process ids."""
        running = rollout.RunningServer(
            server.management(), server.inference(), server.logs, READY_LIMIT_S, lambda _: None
        )
        begun = time.perf_counter()
        version = rollout.start(running, self.archive.name)
        measurements.starts.append(Start(self.name, number, time.perf_counter() - begun))
        return [worker.pid for worker in version.workers]

    def _load(
        self,
        server: LocalServer,
        pids: list[int],
        number: int,
        settings: RunSettings,
        measurements: Measurements,
    ) -> None:
        name, tree = self.archive.name, ProcessTree(server.pid or 0)
        job = LoadJob(
            template=prediction(server, name.name, name.version),
            form="bytes",
            images=settings.image_names,
            expected=self.answers.logits,
            tolerance=self.answers.tolerance,
        )

        def read() -> ServerUsage:
            counters = read_counters(server.metrics_url, name.name)
            return ServerUsage(tree.cpu_s(), busy_s(), counters)

        def largest_mb() -> float:
            return max(memory_mb(pid) for pid in pids)

        measure_served(self.name, number, job, settings, measurements, read, largest_mb)


def archive_contenders(
    archives: Sequence[Unpacked], settings: RunSettings, *, stages: bool
) -> list[ArchiveContender]:
    """Asks each archive once, for what all later answers are compared with.

    Args:
        archives: All that take part.
        settings: How to measure.
        stages: Whether to time the stages of a batch too.

    Raises:
        BenchmarkError: One cannot be loaded.
    """
    return [ArchiveContender(one, _ask(one, settings), stages) for one in archives]


def _ask(archive: Unpacked, settings: RunSettings) -> InProcessResult:
    job = in_process_job(archive, settings, preprocessings=preprocessings(archive.card))
    return run_in_process(replace(job, passes=(), seconds=0.0, warm_up_s=0.0), settings)


def line_up(
    ours: Sequence[ArchiveContender], settings: RunSettings, *, versus: bool
) -> list[Contender]:
    """Returns all that is to be measured.

    Args:
        ours: The archives.
        settings: How to measure.
        versus: Whether to measure the rivals too, with the weights of one of the archives.

    Raises:
        BenchmarkError: No archive holds weights that a rival can load.
    """
    if not versus:
        return [*ours]
    source = _source(ours)
    job = write_checkpoint(source.archive, settings.scratch / "checkpoint")
    expected = source.answers.logits_after
    return [*ours, *line_up_rivals(job, expected, bfloat16=settings.bfloat16)]


def _source(ours: Sequence[ArchiveContender]) -> ArchiveContender:
    """Chooses whose weights the rivals get: float32 ones where there are some."""
    able = [one for one in ours if ENCODER_FILE in one.archive.card.files]
    exact = [one for one in able if one.archive.card.precision == "float32"]
    return (exact or able or list(ours))[0]


def measure(
    contenders: Sequence[Contender],
    settings: RunSettings,
    rounds: int,
    say: Callable[[str], None],
) -> Measurements:
    """Measures each contender in each round, alone on the machine.

    Every other round goes backwards, so that a machine that grows slower or faster meanwhile
    treats all alike.

    Raises:
        BenchmarkError: A contender failed, or answered wrongly: there are no figures then.
    """
    measurements = Measurements(say)
    for number in range(1, rounds + 1):
        for contender in contenders if number % 2 else reversed(contenders):
            contender.measure(number, settings, measurements)
    return measurements


def in_process_job(
    archive: Unpacked,
    settings: RunSettings,
    *,
    stages: bool = False,
    preprocessings: dict[str, Preprocessing] | None = None,
) -> InProcessJob:
    """Returns the job of measuring an archive within one process."""
    sizes = {1, archive.batch_size}
    if stages:
        sizes |= {2**power for power in range(archive.batch_size.bit_length())}
    return InProcessJob(
        folder=str(archive.folder),
        images=settings.image_names,
        passes=tuple(sorted(sizes)),
        batch_size=archive.batch_size,
        warm_up_s=settings.warm_up_s,
        seconds=settings.seconds / 2,
        gpu=settings.gpu,
        stages=stages,
        preprocessings=preprocessings or {},
    )


def run_in_process(job: InProcessJob, settings: RunSettings) -> InProcessResult:
    """Lets a process of the archive's own code do the job.

    Raises:
        BenchmarkError: The archive cannot be loaded, or an image not be judged.
    """
    with child("in_process", job, settings.scratch, Path(job.folder)) as process:
        (line,) = process.lines()
    return msgspec.json.decode(line, type=InProcessResult)


def _figures(timing: Timing, memory_mb: float) -> Figures:
    times = timing.times_ms
    return Figures(
        images_per_s=timing.size * len(times) / timing.seconds,
        mean_ms=fmean(times),
        p50_ms=percentile(times, 0.50),
        p95_ms=percentile(times, 0.95),
        p99_ms=percentile(times, 0.99),
        cpu_cores=timing.cpu_s / timing.seconds,
        other_cores=max(0.0, timing.busy_s - timing.cpu_s) / timing.seconds,
        memory_mb=memory_mb,
    )
