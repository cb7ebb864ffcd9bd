"""Waits until a version of a model has answered all that it was asked."""

import time

from deepfake_tools.errors import (
    ServerBusyError,
    TimeLimitError,
    UnexpectedAnswerError,
    WorkerFailedError,
)
from deepfake_tools.inspection import ArchiveName
from deepfake_tools.torchserve.api import ManagementAPI

POLL_S = 0.05
# A wait may last this much longer than what it waits for, and is not noticed sooner.
PAUSE_SHARE = 0.1
LONGEST_PAUSE_S = 1.0


class NotDrainedError(TimeLimitError):
    """A version was still at work when the time was over.

    Attributes:
        busy: How many workers have not finished what they had when the wait began.
    """

    def __init__(self, message: str, busy: int) -> None:
        super().__init__(message)
        self.busy = busy


def drain(management: ManagementAPI, archive: ArchiveName, limit_s: float) -> None:
    """Waits until a version has answered all that it was asked before.

    An empty queue is not enough, since its last batch may still be at work. A description from
    the handler goes through the same queue: a worker that answers one has finished its batch.

    Args:
        management: The server's management API.
        archive: The version; it should be asked nothing new meanwhile.
        limit_s: Seconds to wait.

    Raises:
        NotDrainedError: It has not, after the limit.
        ServiceError: The server does not answer, or the version is gone.
    """
    _drain(management, archive, _Wait(limit_s))


def settle(management: ManagementAPI, archive: ArchiveName, limit_s: float) -> None:
    """Waits until a version has answered everything and nothing new comes in.

    Raises:
        NotDrainedError: Requests still came, or were still at work, after the limit.
        ServiceError: The server does not answer, or the version is gone.
    """
    wait = _Wait(limit_s)
    while True:
        waiting = management.version(archive.name, archive.version).pending_requests
        _drain(management, archive, wait)
        # What came in while the workers were asked may be in their hands now.
        if waiting == 0:
            return
        wait.pause()


def workers_in_words(count: int) -> str:
    """Returns how many workers, in words."""
    return f"{count} worker" if count == 1 else f"{count} workers"


class _Wait:
    """The time that is left, and pauses that grow with the time that has passed.

    A question that an idle worker answers is a batch of its own and a line in its log. TorchServe
    lets nobody choose the worker, so that many are answered while another one is busy.
    """

    def __init__(self, limit_s: float) -> None:
        self._start = time.monotonic()
        self._limit_s = limit_s

    @property
    def left_s(self) -> float:
        return self._start + self._limit_s - time.monotonic()

    def pause(self) -> None:
        share = (time.monotonic() - self._start) * PAUSE_SHARE
        time.sleep(min(max(share, POLL_S), LONGEST_PAUSE_S, max(self.left_s, 0)))


def _drain(management: ManagementAPI, archive: ArchiveName, wait: _Wait) -> None:
    answered: set[int] = set()
    while True:
        version = management.version(archive.name, archive.version)
        working = {worker.pid for worker in version.workers if worker.is_ready} - answered
        if not working and version.pending_requests == 0:
            return
        if wait.left_s <= 0:
            raise NotDrainedError(
                f"{archive} still has {version.pending_requests} requests waiting and "
                f"{workers_in_words(len(working))} busy when the time was over",
                len(working),
            )
        try:
            pid = _ask_pid(management, archive, wait.left_s)
        except TimeLimitError:
            continue
        except (WorkerFailedError, ServerBusyError):
            # It died with the question in hand, or its queue is full; it is asked again.
            wait.pause()
            continue
        if pid not in working:
            wait.pause()
        answered.add(pid)


def _ask_pid(management: ManagementAPI, archive: ArchiveName, limit_s: float) -> int:
    """Returns which worker answered a description; its own queue comes first."""
    answer = management.ask_handler(archive.name, archive.version, timeout=limit_s)
    pid = answer.get("pid") if isinstance(answer, dict) else None
    if not isinstance(pid, int):
        raise UnexpectedAnswerError(
            f"{archive} does not describe its workers by process id, so that none can tell when "
            "it is idle: was it built by build_mar.py?"
        )
    return pid
