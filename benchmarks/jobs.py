"""What the processes of a benchmark are asked and answer: plain data, JSON between them."""

from dataclasses import dataclass, field
from typing import Literal

from clip_deepfake.card import Feature
from clip_deepfake.preprocessing import Preprocessing

Logits = tuple[float, ...]


@dataclass(frozen=True)
class LoadJob:
    """Requests to make.

    Attributes:
        port: On 127.0.0.1.
        path: Of the URL.
        headers: Of each request.
        form: How an image is sent: its bytes, or base64 in JSON as LitServe's documentation does.
        images: Image files; each client goes round them, from another one on.
        expected: The logits of each.
        tolerance: How far an answer's logits may be off.
        clients: Connections, each with one request at a time.
        warm_up_s: Seconds before the measurement, at least; it begins when each client has had
            an answer.
        seconds: Of the measurement, which goes on until there is an answer.
    """

    port: int
    path: str
    headers: dict[str, str]
    form: Literal["bytes", "base64"]
    images: tuple[str, ...]
    expected: tuple[Logits, ...]
    tolerance: float
    clients: int
    warm_up_s: float
    seconds: float


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
        asked: Requests in all; each one's answer was compared.
        largest_difference: Of an answer's logits from the expected ones.
        failure: The first answer that was wrong, if any: then the rest is void.
    """

    seconds: float
    cpu_s: float
    latencies_ms: tuple[float, ...]
    answered_s: float
    asked: int
    largest_difference: float
    failure: str | None


@dataclass(frozen=True)
class InProcessJob:
    """An unpacked archive to measure in one process.

    Attributes:
        folder: Of the archive.
        images: Image files.
        passes: How many images the engine is given at once, by turns.
        batch_size: How many images are judged at once.
        warm_up_s: Seconds before each measurement.
        seconds: Of each measurement.
        gpu: CUDA device; None on a machine without.
        stages: Whether to time the stages on the way too.
        preprocessings: By name, whatever else than the card's logits are wanted after too.
    """

    folder: str
    images: tuple[str, ...]
    passes: tuple[int, ...]
    batch_size: int
    warm_up_s: float
    seconds: float
    gpu: int | None
    stages: bool = False
    preprocessings: dict[str, Preprocessing] = field(default_factory=dict)


@dataclass(frozen=True)
class Timing:
    """One thing, done again and again.

    Attributes:
        size: Images each time.
        seconds: In all.
        times_ms: Each time.
        cpu_s: Processor time in all.
        busy_s: Processor time of everything on the machine meanwhile.
    """

    size: int
    seconds: float
    times_ms: tuple[float, ...]
    cpu_s: float
    busy_s: float


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


@dataclass(frozen=True)
class InProcessResult:
    """How fast an archive is in one process, and what its answers are.

    Attributes:
        engine: As the archive calls it.
        tolerance: By which its logits may differ from machine to machine.
        logits: Of each image.
        passes: The engine alone.
        judged: Bytes to verdicts.
        memory_mb: Resident memory, in 10**6 bytes.
        logits_after: Of each image, after each of the job's preprocessings in place of the card's.
        stages: By batch size; empty where not asked for.
    """

    engine: str
    tolerance: float
    logits: tuple[Logits, ...]
    passes: tuple[Timing, ...]
    judged: Timing
    memory_mb: float
    logits_after: dict[str, tuple[Logits, ...]]
    stages: tuple[Stages, ...]


Runtime = Literal["transformers", "OpenVINO float32", "OpenVINO bfloat16"]
"""What a rival computes with."""


@dataclass(frozen=True)
class RivalJob:
    """A checkpoint of transformers to judge with.

    Attributes:
        folder: Checkpoint, processor's settings and head.
        architecture: Name of transformers' class.
        feature: What the head reads.
        normalize: Whether it is brought to length 1 before.
        runtime: What computes: transformers itself, or what OpenVINO makes of it.
        images: The image to judge, where one is.
        port: Where to serve, where that is asked.
        batch_size: The server's.
    """

    folder: str
    architecture: str
    feature: Feature
    normalize: bool
    runtime: Runtime = "transformers"
    images: tuple[str, ...] = ()
    port: int = 0
    batch_size: int = 8


def largest_difference(found: Logits, expected: Logits) -> float:
    """Returns the largest absolute difference of two images' logits; infinite for other shapes."""
    if len(found) != len(expected):
        return float("inf")
    return max(abs(one - other) for one, other in zip(found, expected, strict=True))
