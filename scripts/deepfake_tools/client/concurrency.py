"""Questions in, records out as the answers come: the threads that keep requests on their way."""

import queue
import threading
from collections.abc import Iterable, Iterator
from itertools import islice

from deepfake_tools.client.asker import Asker
from deepfake_tools.client.pace import Pace, RunEndedError
from deepfake_tools.client.questions import Question
from deepfake_tools.client.records import Record

# How long an interruption may go unnoticed, and the progress stand still.
LOOK_UP_SECONDS = 0.2


class Crew:
    """Asks about many images at a time.

    Args:
        asker: Asks about a few.
        pace: Says how many at a time.
        concurrency: How many threads.
    """

    def __init__(self, asker: Asker, pace: Pace, concurrency: int) -> None:
        self._asker = asker
        self._pace = pace
        # Bounded, so that answers do not pile up while the disk is slow.
        self._done: queue.Queue[list[Record] | BaseException | None] = queue.Queue(2 * concurrency)
        self._concurrency = concurrency
        self._reading = threading.Lock()

    def work(self, questions: Iterable[Question]) -> Iterator[list[Record]]:
        """Asks about all the images.

        Args:
            questions: Taken one by one as there is room for them.

        Yields:
            Records in the order of the answers; an empty list now and then while there are none.

        Raises:
            ServiceError: Every later request would fail in the same way. What was answered until
                then has been yielded.
        """
        rest = iter(questions)
        for _ in range(self._concurrency):
            # A thread that waits for its answer must not hold up the end of the program.
            threading.Thread(target=self._work, args=(rest,), daemon=True).start()
        try:
            yield from self._collect()
        finally:
            self._pace.close()

    def _collect(self) -> Iterator[list[Record]]:
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

    def left_over(self) -> Iterator[list[Record]]:
        """Yields what was answered before the end was noticed."""
        self._pace.close()
        while not self._done.empty():
            done = self._done.get()
            if isinstance(done, list):
                yield done

    def _work(self, rest: Iterator[Question]) -> None:
        try:
            while self._turn(rest):
                pass
            self._done.put(None)
        except RunEndedError:
            pass
        except BaseException as error:
            self._done.put(error)

    def _turn(self, rest: Iterator[Question]) -> bool:
        """Asks about the next few images; False when there are none."""
        count = self._pace.enter()
        answered = 0
        try:
            with self._reading:
                questions = list(islice(rest, count))
            if not questions:
                return False
            records, answered = self._asker.ask(questions)
        except BaseException:
            # Before the turn is over, so that nobody else begins one.
            self._pace.close()
            raise
        finally:
            self._pace.leave(count, answered)
        self._done.put(records)
        return True
