import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from deepfake_tools.errors import RequestRefusedError, ServerUnreachableError, TimeLimitError
from deepfake_tools.operations.readiness import DrainingMark
from deepfake_tools.operations.rollout import RunningServer
from deepfake_tools.operations.shutdown import MAIN_CLASS, ServerProcess, StopTimes, stop
from deepfake_tools.store import Store
from deepfake_tools.torchserve.api import InferenceAPI, ManagementAPI

from tests.unit.torchserve_stub import (
    NO_ANSWER,
    Reply,
    Request,
    StubServer,
    description,
    json_reply,
)

# A family whose child ignores SIGTERM, as a worker would that hangs in a library.
SERVER = """
import signal, socket, subprocess, sys
child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); "
worker = subprocess.Popen([sys.executable, "-c", child + "time.sleep(60)"], stdout=-1)
worker.stdout.readline()
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], worker.pid, flush=True)
signal.pause()
"""


class ServerFamily:
    def __init__(self, folder: Path, *arguments: str) -> None:
        command = [sys.executable, "-c", SERVER, *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        port, self.worker = self.process.stdout.readline().split()
        self.management = f"http://127.0.0.1:{port}"
        self.pid_file = folder / ".model_server.pid"
        self.pid_file.write_text(str(self.process.pid))

    def worker_runs(self) -> bool:
        try:
            return psutil.Process(int(self.worker)).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def close(self) -> None:
        if self.worker_runs():
            psutil.Process(int(self.worker)).kill()
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerFamily]:
    server = ServerFamily(tmp_path, MAIN_CLASS)
    yield server
    server.close()


def test_the_server_ends_with_its_workers_and_its_pid_file(server, monkeypatch):
    monkeypatch.setattr("deepfake_tools.operations.shutdown.TERM_LIMIT_S", 0.5)
    process = ServerProcess.find(server.pid_file, server.management)

    assert process.pid == server.process.pid
    assert process.listens
    assert not process.end(), "its worker had to be killed"
    assert server.process.wait(10) == -15
    assert not server.worker_runs()
    assert not server.pid_file.exists()


def test_another_server_is_left_alone(server):
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"http://127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(RequestRefusedError, match="does not listen on"):
            ServerProcess.find(server.pid_file, address)
    assert server.process.poll() is None


@pytest.mark.parametrize("content", ["", "x", "999999999", "-1"])
def test_a_pid_file_of_no_process_is_said(tmp_path, content):
    (tmp_path / "pid").write_text(content)

    with pytest.raises(ServerUnreachableError, match="give the file by --pid-file"):
        ServerProcess.find(tmp_path / "pid", "http://127.0.0.1:8081")
    with pytest.raises(ServerUnreachableError, match="no TorchServe runs"):
        ServerProcess.find(tmp_path / "missing", "http://127.0.0.1:8081")


def test_a_pid_that_is_somebody_elses_by_now_is_left_alone(tmp_path):
    stranger = ServerFamily(tmp_path)
    try:
        with pytest.raises(ServerUnreachableError, match="is no TorchServe"):
            ServerProcess.find(stranger.pid_file, stranger.management)
        assert stranger.process.poll() is None
    finally:
        stranger.close()


class Process:
    """Stands for TorchServe's processes, and notes whether the mark stood when they ended."""

    pid = 4711

    def __init__(self, mark: DrainingMark, *, listens: bool = True) -> None:
        self._mark = mark
        self.listens = listens
        self.ended = False

    def end(self) -> bool:
        assert self._mark.path.exists()
        self.ended = True
        return True


class Workers:
    """Two workers, of which one hangs: it answers no description."""

    def __init__(self, *answering: int, pending: int = 0) -> None:
        self._answering = list(answering)
        self._pending = pending

    def __call__(self, request: Request) -> Reply:
        if request.path.startswith("/models?"):
            return json_reply({"models": [{"modelName": "m", "modelUrl": "m@1.mar"}]})
        version = description("m", "1", "READY", "READY")
        version["jobQueueStatus"] = {"pendingRequests": self._pending}
        if "customized" in request.path:
            if not self._answering:
                return NO_ANSWER
            self._answering.append(self._answering.pop(0))
            version["customizedMetadata"] = {"pid": self._answering[0]}
        return json_reply([version])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "model_store").mkdir()
    return Store(tmp_path / "model_store")


def run(store: Store, address: str, process: Process, drain_s: float = 30) -> list[str]:
    said: list[str] = []
    key_file = store.folder.parent / "key_file.json"
    key_file.touch()

    def connect() -> RunningServer:
        management, inference = ManagementAPI(address, None, 5), InferenceAPI(address, None, 5)
        return RunningServer(management, inference, store.folder / "logs", 5, said.append)

    try:
        stop(connect, process, store, key_file, StopTimes(0, drain_s), said.append)
    finally:
        assert process.ended
        assert not key_file.exists()
        assert not DrainingMark(store).path.exists()
    return said


def test_it_ends_when_every_worker_has_answered(store):
    process = Process(DrainingMark(store))
    with StubServer(Workers(100, 101)) as stub:
        said = run(store, stub.address, process)

    asked = [request.path for request in stub.requests if "customized" in request.path]
    assert len(asked) == 2
    assert said[-1] == "TorchServe, process 4711, is gone"


def test_a_hung_worker_is_named_and_ended(store):
    with (
        StubServer(Workers()) as stub,
        pytest.raises(TimeLimitError, match="2 workers of m version 1 did not finish"),
    ):
        run(store, stub.address, Process(DrainingMark(store)), drain_s=0.5)


def test_requests_that_never_cease_are_cut_off_and_said(store):
    with StubServer(Workers(100, 101, pending=7)) as stub:
        said = run(store, stub.address, Process(DrainingMark(store)), drain_s=0.5)

    assert any("still sent requests; they are cut off" in line for line in said)


def test_a_server_that_does_not_answer_is_ended_all_the_same(store):
    with pytest.raises(TimeLimitError, match="could not drain: no server answers"):
        run(store, "http://127.0.0.1:9", Process(DrainingMark(store)))


def test_a_server_that_is_starting_has_nothing_to_drain(store):
    assert run(store, "http://127.0.0.1:9", Process(DrainingMark(store), listens=False))


def test_a_change_that_is_under_way_is_not_waited_for_without_end(store):
    with StubServer(Workers(100, 101)) as stub, store.lock():
        said = run(store, stub.address, Process(DrainingMark(store)), drain_s=1)

    assert any("not waiting any longer" in line for line in said)
