"""A load job and a server to watch in, a cell's figures out."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import msgspec
from deepfake_tools.percentiles import percentile

from benchmarks.cells import BenchmarkError, Figures
from benchmarks.child import child
from benchmarks.counters import Counters, between
from benchmarks.jobs import LoadEvent, LoadJob, LoadResult
from benchmarks.memory_trace import MemoryTrace
from benchmarks.plan import Plan, Record


@dataclass(frozen=True)
class Reading:
    """What a server has used at one moment.

    Attributes:
        cpu_s: Processor time of all its processes.
        busy_s: Processor time of everything on the machine.
        counters: TorchServe's own.
    """

    cpu_s: float
    busy_s: float
    counters: Counters | None = None


def run_load(
    contender: str,
    job: LoadJob,
    plan: Plan,
    record: Record,
    read: Callable[[], Reading],
    memory_mb: Callable[[], float],
) -> Figures:
    """Lets the load process ask, and reads the server when it begins and ends to measure.

    Args:
        contender: The server's name.
        job: What to ask.
        plan: How to measure.
        record: Told how far the answers were off.
        read: Reads the server.
        memory_mb: Reads the resident memory of its largest worker, in 10**6 bytes.

    Raises:
        BenchmarkError: An answer was missing or wrong.
    """
    with child("load", job, plan.scratch) as load:
        lines = load.lines()
        before = _reading_at(next(lines), read)
        with MemoryTrace(memory_mb) as memory:
            after = _reading_at(next(lines), read)
        result = msgspec.json.decode(next(lines), type=LoadResult)
    if result.failure is not None:
        raise BenchmarkError(f"{contender}: wrong answer, so there is no figure: {result.failure}")
    record.note_difference(contender, result.largest_difference)
    return _figures(contender, result, before, after, memory)


def _reading_at(line: bytes, read: Callable[[], Reading]) -> Reading:
    msgspec.json.decode(line, type=LoadEvent)
    return read()


def _figures(
    contender: str, result: LoadResult, before: Reading, after: Reading, memory: MemoryTrace
) -> Figures:
    latencies = result.latencies_ms
    own_s, busy_s = after.cpu_s - before.cpu_s, after.busy_s - before.busy_s
    server = None
    if before.counters and after.counters:
        server = between(before.counters, after.counters)
    return Figures(
        images_per_s=len(latencies) / result.answered_s,
        mean_ms=fmean(latencies),
        p50_ms=percentile(latencies, 0.50),
        p95_ms=percentile(latencies, 0.95),
        p99_ms=percentile(latencies, 0.99),
        cpu_cores=own_s / result.seconds,
        load_cores=result.cpu_s / result.seconds,
        other_cores=max(0.0, busy_s - own_s - result.cpu_s) / result.seconds,
        memory_mb=memory.largest_mb,
        memory_growth=memory.growth,
        queue_ms=server.queue_ms if server else None,
        server_ms=server.server_ms if server else None,
    )
