"""A running server in, its end out: after it has answered what it was asked."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from deepfake_tools.errors import ModelNotServedError, ServiceError, TimeLimitError
from deepfake_tools.inspection import ArchiveName
from deepfake_tools.operations.draining import NotDrainedError, settle, workers_in_words
from deepfake_tools.operations.readiness import DrainingMark
from deepfake_tools.operations.rollout import RunningServer
from deepfake_tools.operations.server_process import ServerProcess
from deepfake_tools.store import Store, StoreError
from deepfake_tools.torchserve.answers import ModelVersion


@dataclass(frozen=True)
class StopTimes:
    """How long a stop may take.

    Attributes:
        grace_s: Seconds between the end of readiness and the drain, in which load balancers
            notice it and uploads that have begun come to their end.
        drain_s: Seconds for the requests that are under way.
    """

    grace_s: float
    drain_s: float


def stop(
    connect: Callable[[], RunningServer],
    process: ServerProcess,
    store: Store,
    key_file: Path,
    times: StopTimes,
    say: Callable[[str], None],
) -> None:
    """Ends a server: readiness off, a pause, a drain, then SIGTERM, and the key file removed.

    Args:
        connect: Returns the server's APIs. A server that does not answer is ended all the same.
        process: Its processes.
        store: Its store.
        key_file: Its tokens, which end with it.
        times: How long to wait.
        say: Takes each step's one-line report.

    Raises:
        TimeLimitError: It has ended, and requests from before have got no answer.
    """
    mark = DrainingMark(store)
    mark.set()
    try:
        lost = []
        if process.listens:
            say(f"readiness is off; {times.grace_s:g} s until the drain")
            time.sleep(times.grace_s)
            lost = _drain(connect, store, times.drain_s, say)
        if not process.end():
            say("SIGTERM did not end every process within 5 s: the rest has been killed")
        key_file.unlink(missing_ok=True)
    finally:
        # If this was interrupted, the server goes on as before.
        mark.clear()
    say(f"TorchServe, process {process.pid}, is gone")
    if lost:
        raise TimeLimitError(f"requests were under way and have got no answer: {'; '.join(lost)}")


def _drain(
    connect: Callable[[], RunningServer], store: Store, limit_s: float, say: Callable[[str], None]
) -> list[str]:
    """Waits for all that is under way, and returns a line for each version that is not done."""
    deadline = time.monotonic() + limit_s
    lost = []
    try:
        server = connect()
        with ExitStack() as stack:
            try:
                # A change that is under way; no other one begins, since the mark is set.
                stack.enter_context(store.lock(limit_s / 2))
            except StoreError as error:
                say(f"note: not waiting any longer: {error}")
            for model in server.management.models():
                for version in server.management.versions(model.name):
                    lost += _settle(server, version, max(deadline - time.monotonic(), 0))
    except ServiceError as error:
        lost.append(f"could not drain: {error}")
    return lost


def _settle(server: RunningServer, version: ModelVersion, limit_s: float) -> list[str]:
    archive = ArchiveName(version.name, version.version)
    if not version.ready_workers:
        waiting = version.pending_requests
        return [f"{archive} has {waiting} waiting and no READY worker"] if waiting else []
    try:
        settle(server.management, archive, limit_s)
    except ModelNotServedError:
        return []
    except NotDrainedError as error:
        if error.busy:
            return [f"{workers_in_words(error.busy)} of {archive} did not finish"]
        server.say(
            f"note: {archive} is still sent requests; they are cut off. Everything from before "
            "the drain has been answered"
        )
    return []
