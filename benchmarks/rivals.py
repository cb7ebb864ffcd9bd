"""The same weights behind LitServe, and in a new process per image: a round of their figures.

LitServe computes with transformers, or with what OpenVINO makes of the same model.
"""

import socket
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, replace

import msgspec
from clip_deepfake.card import Card
from clip_deepfake.preprocessing import CenterCrop, Preprocessing, Resize, Step

from benchmarks.cells import BenchmarkError, Cell, Figures, Place, Start, Way
from benchmarks.child import Child, child
from benchmarks.jobs import (
    LoadJob,
    Logits,
    RivalJob,
    Runtime,
    largest_difference,
)
from benchmarks.load_run import Reading, run_load
from benchmarks.plan import Plan, Record
from benchmarks.usage import Usage, busy_s

LITSERVE = "LitServe"
LITSERVE_FLOAT32 = "LitServe, OpenVINO float32"
LITSERVE_BFLOAT16 = "LitServe, OpenVINO bfloat16"
SCRIPT = "script"

CLIP_PROCESSOR = "CLIP's own preprocessing"
OPENCV = "OpenCV's decoding and squash"

READY_LIMIT_S = 180.0
POLL_S = 0.1

TOLERANCES: dict[Runtime, float] = {
    "transformers": 0.05,
    "OpenVINO float32": 0.05,
    "OpenVINO bfloat16": 0.25,
}
"""Of a rival's logits: another decoder, another resize where torchvision is installed, 8 bits of
mantissa."""


@dataclass(frozen=True)
class Rival:
    """The same detector by others' code.

    Attributes:
        name: What its figures are listed under.
        job: The checkpoint.
        expected: Each image's logits after the preprocessing that it uses.
    """

    name: str
    job: RivalJob
    expected: tuple[Logits, ...]


def preprocessings(card: Card) -> dict[str, Preprocessing]:
    """Returns the ways in which rivals prepare images for a detector, by what does it."""
    side, mean, std = card.encoder.image_size, card.preprocessing.mean, card.preprocessing.std
    clip: list[Step] = [
        Resize("shortest_side", side, "pillow", "bicubic"),
        CenterCrop(side, "transformers"),
    ]
    return {
        CLIP_PROCESSOR: Preprocessing("clip", clip, mean, std, "pillow"),
        OPENCV: Preprocessing("squash", [Resize("squash", side, "opencv", "bilinear")], mean, std),
    }


def preparation(rival: str) -> str:
    """Returns the one of `preprocessings` that a rival uses, by its name."""
    return OPENCV if rival in (LITSERVE_FLOAT32, LITSERVE_BFLOAT16) else CLIP_PROCESSOR


class LitServeContender(Rival):
    """It behind LitServe."""

    def measure(self, number: int, plan: Plan, record: Record) -> None:
        """Starts the server, asks it, ends it."""
        job = replace(self.job, port=_free_port())
        begun = time.perf_counter()
        with child("litserve_app", job, plan.scratch) as server:
            self._await_health(server, job.port)
            record.starts.append(Start(self.name, number, time.perf_counter() - begun))
            usage = Usage(server.pid)
            self._load(job.port, usage, max(plan.clients), plan.warm_up, record)
            for clients in plan.clients:
                figures = self._load(job.port, usage, clients, plan, record)
                record.add(Cell(Place(self.name, Way.SERVED, clients), number, figures))

    def _load(self, port: int, usage: Usage, clients: int, plan: Plan, record: Record) -> Figures:
        job = LoadJob(
            port=port,
            path="/predict",
            headers={"Content-Type": "application/json"},
            form="base64",
            images=plan.image_names,
            expected=self.expected,
            tolerance=TOLERANCES[self.job.runtime],
            clients=clients,
            warm_up_s=plan.warm_up_s,
            seconds=plan.seconds,
        )

        def read() -> Reading:
            return Reading(usage.cpu_s(), busy_s())

        return run_load(self.name, job, plan, record, read, usage.largest_mb)

    def _await_health(self, server: Child, port: int) -> None:
        deadline = time.monotonic() + READY_LIMIT_S
        while not _is_healthy(port):
            server.check()
            if time.monotonic() > deadline:
                raise BenchmarkError(f"{self.name} is not ready after {READY_LIMIT_S:g} s")
            time.sleep(POLL_S)


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
        if not difference <= TOLERANCES[self.job.runtime]:
            raise BenchmarkError(f"{self.name}: {job.images[0]}: logits off by {difference:g}")
        record.note_difference(self.name, difference)
        place, latency = Place(self.name, Way.SCRIPT, 1), 1e3 * seconds
        record.add(Cell(place, number, Figures(1 / seconds, latency, latency, latency, latency)))


def line_up_rivals(
    job: RivalJob, expected: Mapping[str, tuple[Logits, ...]], *, bfloat16: bool
) -> list[LitServeContender | ScriptContender]:
    """Returns all rivals of a detector.

    Args:
        job: Of its checkpoint.
        expected: Its logits after each of `preprocessings`, by their names.
        bfloat16: Whether the processor computes in it: elsewhere OpenVINO by itself is the same
            as in float32, and not measured twice.
    """
    runtimes: dict[str, Runtime] = {LITSERVE: "transformers", LITSERVE_FLOAT32: "OpenVINO float32"}
    if bfloat16:
        runtimes[LITSERVE_BFLOAT16] = "OpenVINO bfloat16"
    servers = [
        LitServeContender(name, replace(job, runtime=runtime), expected[preparation(name)])
        for name, runtime in runtimes.items()
    ]
    return [*servers, ScriptContender(SCRIPT, job, expected[preparation(SCRIPT)])]


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
