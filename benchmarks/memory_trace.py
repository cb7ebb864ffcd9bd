"""A function that reads a memory in, how it went while something else was measured out."""

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import NamedTuple, Self

EVERY_S = 1.0

SETTLED_S = 20.0
"""After which a server has met every size of batch, and its memory should stay as it is."""

LEAST_SETTLED = 10
"""Readings after that; with fewer nothing is said of growth."""


class Sample(NamedTuple):
    """One reading.

    Attributes:
        at: As time.monotonic().
        memory_mb: In 10**6 bytes.
    """

    at: float
    memory_mb: float


class MemoryTrace:
    """Reads a memory at the beginning, once a second and at the end of a block.

    Args:
        read: Returns it, in 10**6 bytes.

    Attributes:
        samples: In the order of time.
    """

    def __init__(self, read: Callable[[], float]) -> None:
        self._read = read
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.samples: list[Sample] = []

    def __enter__(self) -> Self:
        self._take()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._take()

    @property
    def largest_mb(self) -> float:
        """The largest reading."""
        return max(sample.memory_mb for sample in self.samples)

    @property
    def growth(self) -> float | None:
        """See `settled_growth`."""
        return settled_growth(self.samples)

    def _watch(self) -> None:
        while not self._ended.wait(EVERY_S):
            self._take()

    def _take(self) -> None:
        self.samples.append(Sample(time.monotonic(), self._read()))


def settled_growth(samples: Sequence[Sample]) -> float | None:
    """Returns by what share the largest reading after the first 20 s exceeds the first of them.

    Args:
        samples: In the order of time.

    Returns:
        A share, 0 when it has only fallen; None when there are too few readings to say.
    """
    settled = [s.memory_mb for s in samples if s.at - samples[0].at >= SETTLED_S]
    return max(settled) / settled[0] - 1 if len(settled) >= LEAST_SETTLED else None
