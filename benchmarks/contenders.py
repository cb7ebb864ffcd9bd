"""An unpacked archive in, a round of its figures out: engine alone, one process, served."""

import time
from pathlib import Path
from statistics import fmean
from typing import Protocol
from urllib.parse import urlsplit

import msgspec
from clip_deepfake.preprocessing import Preprocessing
from deepfake_tools.operations import rollout
from deepfake_tools.percentiles import percentile
from deepfake_tools.torchserve.connection import Purpose
from deepfake_tools.torchserve.local_server import LocalServer
from deepfake_tools.torchserve.tokens import find_key

from benchmarks.cells import Cell, Figures, Place, Start, Way
from benchmarks.child import child
from benchmarks.counters import read_counters
from benchmarks.jobs import InProcessJob, InProcessResult, LoadJob, Timing
from benchmarks.load_run import Reading, run_load
from benchmarks.plan import Plan, Record
from benchmarks.unpacked import Unpacked
from benchmarks.usage import Usage, busy_s, memory_mb

READY_LIMIT_S = 180.0


class Contender(Protocol):
    """Whatever is measured."""

    def measure(self, number: int, plan: Plan, record: Record) -> None:
        """Measures everything once, alone on the machine, as round ``number``."""
        ...


class ArchiveContender:
    """An archive of this project.

    Args:
        archive: What to measure.
        answers: Its own, from one process, that all others are compared with.
        stages: Whether to time the stages of a batch too.
    """

    def __init__(self, archive: Unpacked, answers: InProcessResult, *, stages: bool) -> None:
        self._archive = archive
        self._name = archive.label
        self._answers = answers
        self._stages = stages

    def measure(self, number: int, plan: Plan, record: Record) -> None:
        """Measures it in one process, then behind a TorchServe of its own."""
        self._measure_process(number, plan, record)
        store = self._archive.path.parent
        with LocalServer(store, plan.config, settings={"load_models": ""}) as server:
            pids = self._register(server, number, record)
            self._load(server, pids, max(plan.clients), plan.warm_up, record)
            for clients in plan.clients:
                figures = self._load(server, pids, clients, plan, record)
                place = Place(self._name, Way.SERVED, clients)
                record.add(Cell(place, number, figures))

    def _measure_process(self, number: int, plan: Plan, record: Record) -> None:
        job = in_process_job(self._archive, plan, stages=self._stages)
        result = run_in_process(job, plan)
        for timing in result.passes:
            place = Place(self._name, Way.ENGINE, timing.size)
            record.add(Cell(place, number, _figures(timing, result.memory_mb)))
        place = Place(self._name, Way.PROCESS, result.judged.size)
        record.add(Cell(place, number, _figures(result.judged, result.memory_mb)))
        record.stages[self._name] = result.stages

    def _register(self, server: LocalServer, number: int, record: Record) -> list[int]:
        """Brings the archive up and returns its workers' process ids."""
        running = rollout.RunningServer(
            server.management(), server.inference(), server.logs, READY_LIMIT_S, lambda _: None
        )
        begun = time.perf_counter()
        version = rollout.start(running, self._archive.name)
        record.starts.append(Start(self._name, number, time.perf_counter() - begun))
        return [worker.pid for worker in version.workers]

    def _load(
        self, server: LocalServer, pids: list[int], clients: int, plan: Plan, record: Record
    ) -> Figures:
        name, usage = self._archive.name, Usage(server.pid or 0)
        token = find_key(Purpose.INFERENCE, server.key_file)
        job = LoadJob(
            port=urlsplit(server.inference_url).port or 0,
            path=f"/predictions/{name.name}/{name.version}",
            headers={
                "Authorization": f"Bearer {token.value if token else ''}",
                "Content-Type": "application/octet-stream",
            },
            form="bytes",
            images=plan.image_names,
            expected=self._answers.logits,
            tolerance=self._answers.tolerance,
            clients=clients,
            warm_up_s=plan.warm_up_s,
            seconds=plan.seconds,
        )

        def read() -> Reading:
            return Reading(
                usage.cpu_s(),
                busy_s(),
                read_counters(server.metrics_url, name.name),
            )

        def largest_mb() -> float:
            return max(memory_mb(pid) for pid in pids)

        return run_load(self._name, job, plan, record, read, largest_mb)


def in_process_job(
    archive: Unpacked,
    plan: Plan,
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
        images=plan.image_names,
        passes=tuple(sorted(sizes)),
        batch_size=archive.batch_size,
        warm_up_s=plan.warm_up_s,
        seconds=plan.seconds / 2,
        gpu=plan.gpu,
        stages=stages,
        preprocessings=preprocessings or {},
    )


def run_in_process(job: InProcessJob, plan: Plan) -> InProcessResult:
    """Lets a process of the archive's own code do the job.

    Raises:
        BenchmarkError: The archive cannot be loaded, or an image not be judged.
    """
    with child("in_process", job, plan.scratch, Path(job.folder)) as process:
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
