"""How fast an unpacked archive is within one process: its engine, its verdicts, its stages.

It runs as a process of its own, by the archive's own code, as a worker would.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice, pairwise
from pathlib import Path
from statistics import median

import clip_deepfake
import msgspec
import numpy as np
import psutil
from clip_deepfake.card import LANDMARKS_FILE, Card, read_card
from clip_deepfake.detector import Detector, Submission
from clip_deepfake.faces import Aligner
from clip_deepfake.images import RGB, decode
from clip_deepfake.loading import FLOAT32_TOLERANCE, load_detector
from clip_deepfake.preprocessing import Preprocessing
from clip_deepfake.protocol import form_answer
from clip_deepfake.verdicts import Verdict

from benchmarks.machine import busy_s
from benchmarks.measurements import Logits, Stages, largest_difference

STAGE_REPEATS = 15


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


def measure(job: InProcessJob) -> InProcessResult:
    """Measures one thing after the other."""
    detector = load_detector(Path(job.folder), job.gpu)
    images = [Path(image).read_bytes() for image in job.images]
    card = read_card(Path(job.folder))
    tolerance = FLOAT32_TOLERANCE if detector.engine.exact else card.self_test.tolerance
    logits = _judge(detector, images)
    aligner = Aligner(Path(job.folder, LANDMARKS_FILE), card.faces) if card.faces else None
    passes = tuple(_time_engine(detector, card, images, size, job) for size in job.passes)
    return InProcessResult(
        engine=detector.engine.name,
        tolerance=tolerance,
        logits=logits,
        passes=passes,
        judged=_time_verdicts(detector, images, logits, tolerance, job),
        memory_mb=psutil.Process().memory_info().rss / 1e6,
        logits_after={
            name: _logits_after(preprocessing, detector, card, images)
            for name, preprocessing in job.preprocessings.items()
        },
        stages=tuple(
            _stages(detector, card, aligner, images, timing) for timing in passes if job.stages
        ),
    )


def _judge(detector: Detector, images: Sequence[bytes]) -> tuple[Logits, ...]:
    verdicts = detector.judge(images)  # the entry point from bytes to verdicts, here and below
    for verdict in verdicts:
        if not isinstance(verdict, Verdict):
            raise verdict
    return tuple(verdict.logits for verdict in verdicts if isinstance(verdict, Verdict))


def _logits_after(
    preprocessing: Preprocessing, detector: Detector, card: Card, images: Sequence[bytes]
) -> tuple[Logits, ...]:
    limit = card.limits.max_pixels
    pixels = [
        preprocessing.apply(decode(image, limit, preprocessing.orientation)) for image in images
    ]
    return tuple(tuple(row) for row in detector.engine(np.stack(pixels)).tolist())


def _time_engine(
    detector: Detector, card: Card, images: Sequence[bytes], size: int, job: InProcessJob
) -> Timing:
    limit, preprocessing = card.limits.max_pixels, card.preprocessing
    batch = islice(cycle(images), size)
    pixels = np.stack([preprocessing.apply(decode(image, limit)) for image in batch])
    return _repeat(lambda: detector.engine(pixels), size, job)


def _time_verdicts(
    detector: Detector,
    images: Sequence[bytes],
    expected: Sequence[Logits],
    tolerance: float,
    job: InProcessJob,
) -> Timing:
    batches = _batches(len(images), job.batch_size)

    def judge() -> None:
        batch = next(batches)
        found = _judge(detector, [images[index] for index in batch])
        for index, logits in zip(batch, found, strict=True):
            if not largest_difference(logits, expected[index]) <= tolerance:
                raise ValueError(f"{job.images[index]}: {logits}, before {expected[index]}")

    return _repeat(judge, job.batch_size, job)


def _batches(images: int, size: int) -> Iterator[list[int]]:
    indices = cycle(range(images))
    while True:
        yield list(islice(indices, size))


def _repeat(work: Callable[[], object], size: int, job: InProcessJob) -> Timing:
    warm = time.perf_counter() + job.warm_up_s
    work()
    while time.perf_counter() < warm:
        work()
    marks = [time.perf_counter()]
    cpu, busy = time.process_time(), busy_s()
    while marks[-1] - marks[0] < job.seconds:
        work()
        marks.append(time.perf_counter())
    return Timing(
        size=size,
        seconds=marks[-1] - marks[0],
        times_ms=tuple(1e3 * (after - before) for before, after in pairwise(marks)),
        cpu_s=time.process_time() - cpu,
        busy_s=busy_s() - busy,
    )


def _stages(
    detector: Detector,
    card: Card,
    aligner: Aligner | None,
    images: Sequence[bytes],
    engine: Timing,
) -> Stages:
    batch = list(islice(cycle(images), engine.size))
    limit, preprocessing = card.limits.max_pixels, card.preprocessing
    decoded = [decode(image, limit) for image in batch]
    pictures, align_ms = decoded, 0.0
    if aligner is not None:
        pictures = [_crop(aligner, image) for image in decoded]
        align_ms = _median_ms(lambda: [aligner.find(image) for image in decoded])
    verdicts = detector.judge(batch)
    identity = card.short() | {"engine": detector.engine.name}
    decode_ms = _median_ms(lambda: [decode(image, limit) for image in batch])
    resize_ms = _median_ms(lambda: [preprocessing.apply(image) for image in pictures])
    # These are done for several images at a time: what that gains is shared out between them.
    prepare_ms = _median_ms(lambda: list(detector.preparer.prepare(map(Submission, batch))))
    gain = prepare_ms / (decode_ms + align_ms + resize_ms)
    return Stages(
        size=engine.size,
        decode_ms=gain * decode_ms,
        align_ms=gain * align_ms,
        resize_ms=gain * resize_ms,
        engine_ms=median(engine.times_ms),
        answer_ms=_median_ms(lambda: [form_answer([verdict], identity) for verdict in verdicts]),
    )


def _crop(aligner: Aligner, image: RGB) -> RGB:
    judged = aligner.find(image).judged
    return judged[0].crop if judged else image


def _median_ms(work: Callable[[], object]) -> float:
    times = []
    for _ in range(STAGE_REPEATS):
        begun = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - begun))
    return median(times)


def main() -> None:
    """Does the job that the command line names."""
    job = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=InProcessJob)
    package = Path(clip_deepfake.__file__).resolve()
    if not package.is_relative_to(Path(job.folder).resolve()):
        sys.exit(f"clip_deepfake was imported from {package.parent}, not from the archive")
    print(msgspec.json.encode(measure(job)).decode())


if __name__ == "__main__":
    main()
