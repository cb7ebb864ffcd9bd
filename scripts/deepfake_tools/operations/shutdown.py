"""Ends a running TorchServe: readiness off, what is under way answered, then its processes."""

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from deepfake_tools.errors import (
    ModelNotServedError,
    RequestRefusedError,
    ServerUnreachableError,
    ServiceError,
    TimeLimitError,
)
from deepfake_tools.inspection import ArchiveName
from deepfake_tools.operations.draining import NotDrainedError, settle, workers_in_words
from deepfake_tools.operations.readiness import DrainingMark
from deepfake_tools.operations.rollout import RunningServer
from deepfake_tools.store import Store, StoreError
from deepfake_tools.torchserve.answers import ModelVersion

if TYPE_CHECKING:
    import psutil

PID_FILE_NAME = ".model_server.pid"
MAIN_CLASS = "org.pytorch.serve.ModelServer"
# SIGTERM ends TorchServe within half a second, and its workers with it.
TERM_LIMIT_S = 5.0
KILL_LIMIT_S = 2.0
POLL_S = 0.05


def default_pid_file() -> Path:
    """Returns where TorchServe writes its pid when it is started with this environment."""
    return Path(tempfile.gettempdir()) / PID_FILE_NAME


class ServerProcess:
    """A running TorchServe's processes.

    Attributes:
        pid: Process id of TorchServe itself, the Java process.
        listens: Whether it takes requests, or is still starting.
    """

    def __init__(self, process: "psutil.Process", pid_file: Path, *, listens: bool) -> None:
        self._process = process
        self._pid_file = pid_file
        self.pid = process.pid
        self.listens = listens

    @classmethod
    def find(cls, pid_file: Path, management: str) -> Self:
        """Finds the process, and makes sure that it is the server that was meant.

        Args:
            pid_file: As TorchServe wrote it.
            management: The address of the management API, which the process must listen on.

        Raises:
            ServerUnreachableError: There is no such process.
            RequestRefusedError: It is another one.
        """
        try:
            import psutil
        except ModuleNotFoundError as error:
            raise ServerUnreachableError(
                "a server is stopped from the environment that it runs in: psutil is not "
                "installed here, and torchserve brings it"
            ) from error
        try:
            process = psutil.Process(int(pid_file.read_text(encoding="ascii")))
            command = process.cmdline()
            ports = {one.laddr.port for one in process.net_connections("tcp") if one.laddr}
        except (OSError, ValueError, psutil.NoSuchProcess) as error:
            raise ServerUnreachableError(
                f"no TorchServe runs that has written {pid_file}: it keeps its pid in its own "
                "TMPDIR, give the file by --pid-file"
            ) from error
        except psutil.AccessDenied as error:
            raise RequestRefusedError(
                f"process {error.pid} of {pid_file} belongs to another user: stop it as that one",
                403,
            ) from error
        if MAIN_CLASS not in command:
            raise ServerUnreachableError(
                f"process {process.pid} of {pid_file} is no TorchServe: the file is left over from "
                "one that is gone, or is not the server's; give the right one by --pid-file"
            )
        # A server that is starting listens nowhere yet.
        if ports and urlsplit(management).port not in ports:
            raise RequestRefusedError(
                f"process {process.pid} of {pid_file} is a TorchServe that does not listen on "
                f"{management}: give the right --management or --pid-file",
                403,
            )
        return cls(process, pid_file, listens=bool(ports))

    def end(self) -> bool:
        """Ends the server and its workers, and removes its pid file.

        Returns:
            Whether SIGTERM was enough; else what was left has been killed.
        """
        import psutil

        family = [self._process, *self._process.children(recursive=True)]
        self._process.terminate()
        left = _wait(family, TERM_LIMIT_S)
        for process in left:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        _wait(left, KILL_LIMIT_S)
        self._pid_file.unlink(missing_ok=True)
        return not left


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


def _wait(processes: "list[psutil.Process]", limit_s: float) -> "list[psutil.Process]":
    """Waits until processes have ended, and returns those that have not."""
    deadline = time.monotonic() + limit_s
    left = [process for process in processes if _runs(process)]
    while left and time.monotonic() < deadline:
        time.sleep(POLL_S)
        left = [process for process in left if _runs(process)]
    return left


def _runs(process: "psutil.Process") -> bool:
    import psutil

    try:
        # One that nobody has waited for is still listed, but at its end.
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
