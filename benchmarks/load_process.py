"""The load on a server, from a process of its own: what it asks and counts, what the server uses.

The load process does the job that it is given and prints when it begins and ends to measure; the
benchmark's own process reads the server at both moments.
"""

import base64
import json
import re
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import Literal

import msgspec
from deepfake_tools.percentiles import percentile

from benchmarks.load import Exchange, Load, RequestTemplate
from benchmarks.machine import MemoryTrace
from benchmarks.measurements import (
    BenchmarkError,
    Cell,
    Figures,
    Logits,
    Measurements,
    Place,
    RunSettings,
    Scenario,
    largest_difference,
)
from benchmarks.processes import child

START_WARM_UP = 4.0
"""Warm-ups that a server gets at first: Java compiles what it runs often."""

COUNTER = re.compile(r'^(ts_\w+)\{[^}]*model_name="([^"]*)"[^}]*\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True)
class LoadJob:
    """Requests to make.

    Attributes:
        template: Of each request.
        form: How an image is sent: its bytes, or base64 in JSON as LitServe's documentation does.
        images: Image files; the clients go round them.
        expected: The logits of each.
        tolerance: How far an answer's logits may be off.
        clients: Connections, each with one request at a time.
        warm_up_s: Seconds before the measurement, at least; it begins when each client has had
            an answer.
        seconds: Of the measurement, which goes on until there is an answer.
    """

    template: RequestTemplate
    form: Literal["bytes", "base64"]
    images: tuple[str, ...]
    expected: tuple[Logits, ...]
    tolerance: float
    clients: int = 1
    warm_up_s: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class LoadEvent:
    """A line of the load process; the last one is the `LoadResult`."""

    event: Literal["begin", "end"]


@dataclass(frozen=True)
class LoadResult:
    """What came of the requests.

    Attributes:
        seconds: Between the two events.
        cpu_s: Processor time of the load process in between.
        latencies_ms: Of each request that was answered in between.
        answered_s: In which they were: from the last answer before to the last of them, since
            answers come a batch at a time.
        largest_difference: Of an answer's logits from the expected ones.
        failure: The first answer that was wrong, if any: then the rest is void.
    """

    seconds: float
    cpu_s: float
    latencies_ms: tuple[float, ...]
    answered_s: float
    largest_difference: float
    failure: str | None


@dataclass(frozen=True)
class Counters:
    """TorchServe's sums over all requests of a model so far.

    Attributes:
        requests: How many.
        queue_us: Microseconds in the queue and the batch window.
        server_us: Microseconds from arrival to answer.
    """

    requests: float
    queue_us: float
    server_us: float


@dataclass(frozen=True)
class ServerUsage:
    """What a server has used up to one moment.

    Attributes:
        cpu_s: Processor time of all its processes.
        busy_s: Processor time of everything on the machine.
        counters: TorchServe's own.
    """

    cpu_s: float
    busy_s: float
    counters: Counters | None = None


def measure_served(
    contender: str,
    number: int,
    job: LoadJob,
    settings: RunSettings,
    measurements: Measurements,
    read: Callable[[], ServerUsage],
    memory_mb: Callable[[], float],
) -> None:
    """Measures a server that has just come up, with each number of clients.

    Args:
        contender: The server's name.
        number: Of the round.
        job: What to ask; how long, and by how many clients, the settings say.
        settings: How to measure.
        measurements: Gets the figures, and how far the answers were off.
        read: Reads the server.
        memory_mb: Reads the resident memory of its largest worker, in 10**6 bytes.

    Raises:
        BenchmarkError: An answer was missing or wrong.
    """

    def measure(clients: int, seconds: float) -> Figures:
        load = replace(job, clients=clients, warm_up_s=settings.warm_up_s, seconds=seconds)
        return measure_load(contender, load, settings.scratch, measurements, read, memory_mb)

    measure(max(settings.clients), START_WARM_UP * settings.warm_up_s)
    for clients in settings.clients:
        place = Place(contender, Scenario.SERVED, clients)
        measurements.add(Cell(place, number, measure(clients, settings.seconds)))


def measure_load(
    contender: str,
    job: LoadJob,
    scratch: Path,
    measurements: Measurements,
    read: Callable[[], ServerUsage],
    memory_mb: Callable[[], float],
) -> Figures:
    """Lets the load process ask, and reads the server when it begins and ends to measure.

    Raises:
        BenchmarkError: An answer was missing or wrong.
    """
    with child("load_process", job, scratch) as load:
        lines = load.lines()
        before = _usage_at(next(lines), read)
        with MemoryTrace(memory_mb) as memory:
            after = _usage_at(next(lines), read)
        result = msgspec.json.decode(next(lines), type=LoadResult)
    if result.failure is not None:
        raise BenchmarkError(f"{contender}: wrong answer, so there is no figure: {result.failure}")
    measurements.note_difference(contender, result.largest_difference)
    return _figures(result, before, after, memory)


def _usage_at(line: bytes, read: Callable[[], ServerUsage]) -> ServerUsage:
    msgspec.json.decode(line, type=LoadEvent)
    return read()


def _figures(
    result: LoadResult, before: ServerUsage, after: ServerUsage, memory: MemoryTrace
) -> Figures:
    latencies = result.latencies_ms
    own_s, busy_s = after.cpu_s - before.cpu_s, after.busy_s - before.busy_s
    queue_ms, server_ms = mean_times_ms(before.counters, after.counters)
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
        queue_ms=queue_ms,
        server_ms=server_ms,
    )


def mean_times_ms(
    before: Counters | None, after: Counters | None
) -> tuple[float, float] | tuple[None, None]:
    """Returns a mean request's milliseconds in queue and batch window, and to its answer.

    Args:
        before: The counters at a moment; None of a server that has none.
        after: Later; when nothing was asked in between, there are no means.
    """
    if before is None or after is None or after.requests <= before.requests:
        return None, None
    requests = after.requests - before.requests
    return (
        (after.queue_us - before.queue_us) / requests / 1e3,
        (after.server_us - before.server_us) / requests / 1e3,
    )


def read_counters(metrics_url: str, model: str) -> Counters:
    """Asks the metrics port, which wants no token."""
    with urllib.request.urlopen(f"{metrics_url}/metrics", timeout=10) as answer:
        return parse_counters(answer.read().decode(), model)


def parse_counters(page: str, model: str) -> Counters:
    """Reads TorchServe's metrics page; what is not there yet counts as 0."""
    found = {name: float(value) for name, of, value in COUNTER.findall(page) if of == model}
    return Counters(
        requests=found.get("ts_inference_requests_total", 0.0),
        queue_us=found.get("ts_queue_latency_microseconds", 0.0),
        server_us=found.get("ts_inference_latency_microseconds", 0.0),
    )


def ask(job: LoadJob) -> LoadResult:
    """Does a job; prints the two events on the way."""
    bodies = [_body(Path(image).read_bytes(), job.form) for image in job.images]

    def compare(image: int, status: int, content: bytes) -> float:
        if status != 200:
            raise ValueError(f"status {status}: {content[:300]!r}")
        logits, expected = tuple(json.loads(content)["logits"]), job.expected[image]
        difference = largest_difference(logits, expected)
        if not difference <= job.tolerance:
            name = Path(job.images[image]).name
            raise ValueError(f"{name}: logits {logits}, not {expected} within {job.tolerance:g}")
        return difference

    asked = cycle(enumerate(bodies))
    with Load(job.template, asked, job.clients, compare, until_failure=True) as load:
        load.wait(job.warm_up_s)
        load.wait_until(lambda: load.all_met)
        begun, cpu_begun = _mark("begin")
        load.wait(job.seconds)
        load.wait_until(lambda: load.exchanges[-1].ended > begun)
        ended, cpu_ended = _mark("end")
    failure = f"{job.template.path}: {load.failures[0].failure}" if load.failures else None
    return _result(load.exchanges, begun, ended, cpu_ended - cpu_begun, failure)


def _body(image: bytes, form: str) -> bytes:
    if form == "bytes":
        return image
    return json.dumps({"image_data": base64.b64encode(image).decode()}).encode()


def _mark(event: Literal["begin", "end"]) -> tuple[float, float]:
    print(msgspec.json.encode(LoadEvent(event)).decode(), flush=True)
    return time.monotonic(), time.process_time()


def _result(
    exchanges: list[Exchange[int, float]],
    begun: float,
    ended: float,
    cpu_s: float,
    failure: str | None,
) -> LoadResult:
    inside = [exchange for exchange in exchanges if begun < exchange.ended <= ended]
    earlier = [exchange.ended for exchange in exchanges if exchange.ended <= begun]
    return LoadResult(
        seconds=ended - begun,
        cpu_s=cpu_s,
        latencies_ms=tuple(1e3 * (exchange.ended - exchange.sent) for exchange in inside),
        answered_s=max((exchange.ended for exchange in inside), default=ended)
        - max(earlier, default=begun),
        largest_difference=max((exchange.answer or 0.0 for exchange in exchanges), default=0.0),
        failure=failure,
    )


def main() -> None:
    """Does the job that the command line names."""
    job = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=LoadJob)
    print(msgspec.json.encode(ask(job)).decode(), flush=True)


if __name__ == "__main__":
    main()
