"""Counters of answered batches for Prometheus, and what the stages of a batch took."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from threading import Lock
from typing import Literal

from clip_deepfake.decision import WATCHED_RATES
from clip_deepfake.errors import DetectorError, NoFaceError
from clip_deepfake.verdicts import Verdict

Stage = Literal["decode", "align", "preprocess", "engine", "explain"]


@dataclass(frozen=True)
class Spent:
    """What one stage took.

    Attributes:
        seconds: summed over the pictures; of stages that run side by side, more than the clock's.
        pictures: that went through it: images, and from `preprocess` on faces where these are
            judged.
    """

    seconds: float = 0.0
    pictures: int = 0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.seconds + other.seconds, self.pictures + other.pictures)


@dataclass(frozen=True)
class Timings:
    """What a batch spent its time on; a picture that was refused counts in the stage that did."""

    decode: Spent = Spent()
    align: Spent = Spent()
    preprocess: Spent = Spent()
    engine: Spent = Spent()
    explain: Spent = Spent()

    def stages(self) -> Iterator[tuple[str, Spent]]:
        """Yields each stage's name with what it took, in the order of the work."""
        for field in fields(self):
            yield field.name, getattr(self, field.name)


class Stopwatch:
    """Times the stages of work that one thread does; the threads' watches are summed afterwards."""

    def __init__(self) -> None:
        """Starts at nothing."""
        self._spent: dict[Stage, Spent] = {}

    @contextmanager
    def timing(self, stage: Stage, pictures: int = 1) -> Iterator[None]:
        """Adds what the block takes to a stage, also when it raises."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, Spent(time.perf_counter() - begun, pictures))

    def add(self, stage: Stage, spent: Spent) -> None:
        """Adds to a stage what was measured elsewhere."""
        self._spent[stage] = self._spent.get(stage, Spent()) + spent

    @staticmethod
    def total(watches: Iterable["Stopwatch"]) -> Timings:
        """Sums what several watches measured."""
        total = Stopwatch()
        for watch in watches:
            for stage, spent in watch._spent.items():
                total.add(stage, spent)
        return Timings(**total._spent)


BINS = tuple(f"{step / 20:.2f}-{(step + 1) / 20:.2f}" for step in range(20))
"""Of ``fake_probability``, 0.05 wide; each holds its lower end, and the last one 1 as well."""

BATCHES = ("1", "2", "3-4", "5-8", "9-16", "17-32", "33-64", "65-")
"""Classes of batches by their number of requests, each up to twice as large as the one before."""


@dataclass(frozen=True)
class Counter:
    """A number that only grows, one for each value of its label.

    Attributes:
        name: as Prometheus has it; a label cannot be added to it later, only to a new name.
        unit: ``count`` or ``s``.
        label: name of its label.
        values: of the label that are known beforehand. They begin at 0, so that the first of a
            kind is seen as a change.
    """

    name: str
    unit: str
    label: str
    values: tuple[str, ...] = ()


STAGES = tuple(name for name, _ in Timings().stages())
VERDICTS = Counter("clip_deepfake_verdicts_total", "count", "label", ("REAL", "FAKE"))
PROBABILITIES = Counter("clip_deepfake_fake_probability_total", "count", "bin", BINS)
# Over the verdicts this is the mean, which the bins give only roughly, and PromQL not at all.
PROBABILITY_SUM = Counter(
    "clip_deepfake_fake_probability_sum_total", "count", "label", ("REAL", "FAKE")
)
REFUSALS = Counter("clip_deepfake_refused_images_total", "count", "code", ("internal_error",))
FACES = Counter("clip_deepfake_face_searches_total", "count", "found", ("true", "false"))
SECONDS = Counter("clip_deepfake_stage_seconds_total", "s", "stage", STAGES)
PICTURES = Counter("clip_deepfake_stage_pictures_total", "count", "stage", STAGES)
SIZES = Counter("clip_deepfake_batches_total", "count", "requests", BATCHES)
# Each holds those before it. Of real images like the card's a tenth lies up to 0.1, and so on.
FALSE_ALARM_RATES = Counter(
    "clip_deepfake_false_alarm_rates_total", "count", "up_to", tuple(map(str, (*WATCHED_RATES, 1)))
)
COUNTERS = (
    VERDICTS,
    PROBABILITIES,
    PROBABILITY_SUM,
    REFUSALS,
    FACES,
    SECONDS,
    PICTURES,
    SIZES,
    FALSE_ALARM_RATES,
)


@dataclass(frozen=True)
class Increment:
    """By how much a counter grows at one value of its label."""

    counter: Counter
    value: str
    amount: float


class Tally:
    """What is to be reported; begins with the zeros of all known values. Any thread may call."""

    def __init__(self) -> None:
        """Counts nothing yet."""
        self._lock = Lock()
        self._reporting = Lock()
        self._amounts: dict[tuple[Counter, str], float] = {
            (counter, value): 0.0 for counter in COUNTERS for value in counter.values
        }

    def add(
        self, requests: int, results: Iterable[Verdict | DetectorError], timings: Timings
    ) -> None:
        """Counts a batch.

        Args:
            requests: in it.
            results: one for each image in them, or one for a request without any.
            timings: of its stages.
        """
        with self._lock:
            self._grow(SIZES, size_class(requests), 1)
            for result in results:
                for counter, value, amount in _counted(result):
                    self._grow(counter, value, amount)
            for stage, spent in timings.stages():
                if spent.pictures:
                    self._grow(SECONDS, stage, spent.seconds)
                    self._grow(PICTURES, stage, spent.pictures)

    def report(self, send: Callable[[Increment], None]) -> None:
        """Hands on what the counters have grown by.

        When it returns, all that was counted before it was called is handed on, by this thread or
        by another one that had begun. What `send` raises ends it, and leaves the rest for the next
        call.

        Args:
            send: takes one increment.
        """
        with self._reporting:
            with self._lock:
                unsent, self._amounts = self._amounts, {}
            try:
                for key in tuple(unsent):
                    send(Increment(*key, unsent[key]))
                    del unsent[key]
            finally:
                with self._lock:
                    for key, amount in unsent.items():
                        self._grow(*key, amount)

    def _grow(self, counter: Counter, value: str, amount: float) -> None:
        key = (counter, value)
        self._amounts[key] = self._amounts.get(key, 0.0) + amount


def _counted(result: Verdict | DetectorError) -> Iterator[tuple[Counter, str, float]]:
    if isinstance(result, DetectorError):
        yield REFUSALS, result.code, 1
        if isinstance(result, NoFaceError):
            yield FACES, "false", 1
        return
    yield VERDICTS, result.label, 1
    yield PROBABILITIES, probability_bin(result.fake_probability), 1
    yield PROBABILITY_SUM, result.label, result.fake_probability
    if result.false_alarm_rate is not None:
        for bound in FALSE_ALARM_RATES.values:
            if result.false_alarm_rate <= float(bound):
                yield FALSE_ALARM_RATES, bound, 1
    if result.face is not None:
        yield FACES, "true" if result.face.found else "false", 1


def probability_bin(probability: float) -> str:
    """The bin that a probability in [0, 1] falls into."""
    return BINS[min(int(probability * len(BINS)), len(BINS) - 1)]


def size_class(requests: int) -> str:
    """The class of batches of so many requests, one or more."""
    return BATCHES[min((requests - 1).bit_length(), len(BATCHES) - 1)]
