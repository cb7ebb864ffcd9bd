"""Many images at a time: the threads that ask, and how many images may be on their way."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeAlias

from deepfake_tools.client.payloads import PendingImage
from deepfake_tools.evaluation.outcomes import Outcome

AskAbout: TypeAlias = Callable[[Sequence[PendingImage]], list[Outcome]]
"""Takes some images, returns what became of each."""

# How long an interruption may go unnoticed, and the progress stand still.
LOOK_UP_SECONDS = 0.2

SEVERAL = 4
"""Images in one request: it spares a quick detector's server and client most of the transport."""

SEVERAL_PER_SECOND = 20.0
"""Detectors slower than this gain nothing by it."""

SHARE = 0.5


class RunEndedError(Exception):
    """The run is over."""


class Throttle:
    """What the threads of a run agree on.

    At first one image is on its way alone: a wrong name or token is then refused once. After that
    there are as many as are answered within half of an attempt's time limit, so that a slow
    detector's requests do not wait in its queue until they are given up and asked again.

    Args:
        concurrency: Most requests on their way at a time.
        attempt_seconds: The time limit of one attempt.
        together: Images that belong into one request.

    Attributes:
        answered: How many images the server has answered about.
    """

    def __init__(self, concurrency: int, attempt_seconds: float, together: int = 1) -> None:
        self._together = together
        self._concurrency = concurrency
        self._attempt_seconds = attempt_seconds
        self._turn = threading.Condition()
        self._on_their_way = 0
        self.answered = 0
        self._started = time.monotonic()
        self._closed = threading.Event()

    @property
    def has_answers(self) -> bool:
        """Whether the server has answered about any image."""
        return self.answered > 0

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

    def leave(self, count: int) -> None:
        """Ends a turn.

        Args:
            count: As `enter` gave it.
        """
        with self._turn:
            self._on_their_way -= count
            self._turn.notify_all()

    def note_answers(self, count: int) -> None:
        """Takes note that the server has answered about so many images."""
        with self._turn:
            self.answered += count

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
        return self.answered / max(time.monotonic() - self._started, 1e-3)

    def _several(self) -> int:
        quick = self._rate() >= SEVERAL_PER_SECOND and self._concurrency > 1
        return self._together * (SEVERAL if quick else 1)

    def _has_room(self) -> bool:
        if self._on_their_way == 0:
            return True
        limit = self._rate() * self._attempt_seconds * SHARE
        return self._on_their_way + self._several() <= limit


class RequestPool:
    """Asks about many images at a time.

    Args:
        ask: Asks about a few.
        throttle: Says how many images at a time.
        concurrency: How many threads.
    """

    def __init__(self, ask: AskAbout, throttle: Throttle, concurrency: int) -> None:
        self._ask = ask
        self._throttle = throttle
        # Bounded, so that answers do not pile up while the disk is slow.
        self._done: queue.Queue[list[Outcome] | BaseException | None] = queue.Queue(2 * concurrency)
        self._concurrency = concurrency
        self._reading = threading.Lock()

    def work(self, images: Iterable[PendingImage]) -> Iterator[list[Outcome]]:
        """Asks about all the images.

        Args:
            images: Taken one by one as there is room for them.

        Yields:
            Outcomes in the order of the answers; an empty list now and then while there are none.

        Raises:
            ServiceError: Every later request would fail in the same way. What was answered until
                then has been yielded.
        """
        rest = iter(images)
        for _ in range(self._concurrency):
            # A thread that waits for its answer must not hold up the end of the program.
            threading.Thread(target=self._work, args=(rest,), daemon=True).start()
        try:
            yield from self._collect()
        finally:
            self._throttle.close()

    def _collect(self) -> Iterator[list[Outcome]]:
        working = self._concurrency
        while working:
            try:
                done = self._done.get(timeout=LOOK_UP_SECONDS)
            except queue.Empty:
                yield []
                continue
            if isinstance(done, BaseException):
                yield from self.left_over()
                raise done
            if done is None:
                working -= 1
            else:
                yield done

    def left_over(self) -> Iterator[list[Outcome]]:
        """Yields what was answered before the end was noticed."""
        self._throttle.close()
        while not self._done.empty():
            done = self._done.get()
            if isinstance(done, list):
                yield done

    def _work(self, rest: Iterator[PendingImage]) -> None:
        try:
            while self._turn(rest):
                pass
            self._done.put(None)
        except RunEndedError:
            pass
        except BaseException as error:
            self._done.put(error)

    def _turn(self, rest: Iterator[PendingImage]) -> bool:
        """Asks about the next few images; False when there are none."""
        count = self._throttle.enter()
        try:
            with self._reading:
                images = list(islice(rest, count))
            if not images:
                return False
            outcomes = self._ask(images)
        except BaseException:
            # Before the turn is over, so that nobody else begins one.
            self._throttle.close()
            raise
        finally:
            self._throttle.leave(count)
        self._done.put(outcomes)
        return True
