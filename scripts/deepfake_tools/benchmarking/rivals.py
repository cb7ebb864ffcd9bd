"""The same weights behind LitServe, and in a new process per image: a round of their figures."""

import socket
import time
import urllib.request
from dataclasses import dataclass, replace

import msgspec

from deepfake_tools.benchmarking.cells import BenchmarkError, Cell, Figures, Place, Start, Way
from deepfake_tools.benchmarking.child import Child, child
from deepfake_tools.benchmarking.jobs import (
    LoadJob,
    Logits,
    TransformersJob,
    largest_difference,
)
from deepfake_tools.benchmarking.load_run import Reading, run_load
from deepfake_tools.benchmarking.plan import Plan, Record
from deepfake_tools.benchmarking.usage import Usage, busy_s

LITSERVE = "LitServe"
SCRIPT = "script"
READY_LIMIT_S = 180.0
POLL_S = 0.1

TOLERANCE = 0.05
"""Of a rival's logits: another decoder, and another resize where torchvision is installed."""


@dataclass(frozen=True)
class Rival:
    """The same detector by transformers.

    Attributes:
        job: The checkpoint.
        expected: Each image's logits after CLIP's own preprocessing.
    """

    job: TransformersJob
    expected: tuple[Logits, ...]


class LitServeContender(Rival):
    """It behind LitServe."""

    def measure(self, number: int, plan: Plan, record: Record) -> None:
        """Starts the server, asks it, ends it."""
        job = replace(self.job, port=_free_port())
        begun = time.perf_counter()
        with child("litserve_app", job, plan.scratch) as server:
            _await_health(server, job.port)
            record.starts.append(Start(LITSERVE, number, time.perf_counter() - begun))
            usage = Usage(server.pid)
            self._load(job.port, usage, max(plan.clients), plan.warm_up, record)
            for clients in plan.clients:
                figures = self._load(job.port, usage, clients, plan, record)
                record.add(Cell(Place(LITSERVE, Way.SERVED, clients), number, figures))

    def _load(self, port: int, usage: Usage, clients: int, plan: Plan, record: Record) -> Figures:
        job = LoadJob(
            port=port,
            path="/predict",
            headers={"Content-Type": "application/json"},
            form="base64",
            images=plan.image_names,
            expected=self.expected,
            tolerance=TOLERANCE,
            clients=clients,
            warm_up_s=plan.warm_up_s,
            seconds=plan.seconds,
        )

        def read() -> Reading:
            return Reading(usage.cpu_s(), busy_s())

        return run_load(LITSERVE, job, plan, record, read, usage.largest_mb)


class ScriptContender(Rival):
    """A process that imports transformers, loads the weights, judges one image and ends."""

    def measure(self, number: int, plan: Plan, record: Record) -> None:
        """Judges one image, another one each round."""
        index = number % len(plan.images)
        job = replace(self.job, images=(plan.image_names[index],))
        begun = time.perf_counter()
        with child("research_script", job, plan.scratch) as script:
            (line,) = script.lines()
        seconds = time.perf_counter() - begun
        difference = largest_difference(
            msgspec.json.decode(line, type=Logits), self.expected[index]
        )
        if not difference <= TOLERANCE:
            raise BenchmarkError(f"{SCRIPT}: {job.images[0]}: logits off by {difference:g}")
        record.note_difference(SCRIPT, difference)
        place, latency = Place(SCRIPT, Way.SCRIPT, 1), 1e3 * seconds
        record.add(Cell(place, number, Figures(1 / seconds, latency, latency, latency, latency)))


def _await_health(server: Child, port: int) -> None:
    deadline = time.monotonic() + READY_LIMIT_S
    while not _is_healthy(port):
        server.check()
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{LITSERVE} is not ready after {READY_LIMIT_S:g} s")
        time.sleep(POLL_S)


def _is_healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:  # refused, or 503 while the worker loads
        return False


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
