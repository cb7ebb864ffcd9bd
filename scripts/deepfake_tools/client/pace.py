"""How fast the answers come in, how many images may be on their way out."""

import threading
import time

SEVERAL = 4
"""Images in one request: it spares a quick detector's server and client most of the transport."""

SEVERAL_PER_SECOND = 20.0
"""Detectors slower than this gain nothing by it."""

SHARE = 0.5


class RunEndedError(Exception):
    """The run is over."""


class Pace:
    """What the threads of a run agree on.

    At first one image is on its way alone: a wrong name or token is then refused once. After that
    there are as many as are answered within half of an attempt's time limit, so that a slow
    detector's requests do not wait in its queue until they are given up and asked again.

    Args:
        concurrency: Most requests on their way at a time.
        attempt_seconds: The time limit of one attempt.
    """

    def __init__(self, concurrency: int, attempt_seconds: float) -> None:
        self._concurrency = concurrency
        self._attempt_seconds = attempt_seconds
        self._turn = threading.Condition()
        self._on_their_way = 0
        self._answered = 0
        self._started = time.monotonic()
        self._closed = threading.Event()

    @property
    def has_answers(self) -> bool:
        """Whether the server has answered about any image."""
        return self._answered > 0

    def enter(self) -> int:
        """Waits for a turn.

        Returns:
            How many images to ask about; `leave` takes the number back.

        Raises:
            RunEndedError: The run is over.
        """
        with self._turn:
            self._turn.wait_for(lambda: self._closed.is_set() or self._has_room())
            if self._closed.is_set():
                raise RunEndedError
            count = self._several()
            self._on_their_way += count
            return count

    def leave(self, count: int, answered: int) -> None:
        """Ends a turn.

        Args:
            count: As `enter` gave it.
            answered: How many images the server has answered about.
        """
        with self._turn:
            self._on_their_way -= count
            self._answered += answered
            self._turn.notify_all()

    def rest(self, seconds: float) -> None:
        """Waits, unless the run ends.

        Raises:
            RunEndedError: The run is over.
        """
        if self._closed.wait(seconds):
            raise RunEndedError

    def close(self) -> None:
        """Ends the run for all threads."""
        self._closed.set()
        with self._turn:
            self._turn.notify_all()

    def _rate(self) -> float:
        """Images a second."""
        return self._answered / max(time.monotonic() - self._started, 1e-3)

    def _several(self) -> int:
        return SEVERAL if self._rate() >= SEVERAL_PER_SECOND and self._concurrency > 1 else 1

    def _has_room(self) -> bool:
        if self._on_their_way == 0:
            return True
        limit = self._rate() * self._attempt_seconds * SHARE
        return self._on_their_way + self._several() <= limit
