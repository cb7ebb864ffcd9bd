"""TorchServe's pid file in, the end of its processes out."""

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from deepfake_tools.errors import RequestRefusedError, ServerUnreachableError

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
