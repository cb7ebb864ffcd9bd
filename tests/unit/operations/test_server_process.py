import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from deepfake_tools.errors import RequestRefusedError, ServerUnreachableError
from deepfake_tools.operations.server_process import MAIN_CLASS, ServerProcess

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


class Server:
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
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path, MAIN_CLASS)
    yield server
    server.close()


def test_the_server_ends_with_its_workers_and_its_pid_file(server, monkeypatch):
    monkeypatch.setattr("deepfake_tools.operations.server_process.TERM_LIMIT_S", 0.5)
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
    stranger = Server(tmp_path)
    try:
        with pytest.raises(ServerUnreachableError, match="is no TorchServe"):
            ServerProcess.find(stranger.pid_file, stranger.management)
        assert stranger.process.poll() is None
    finally:
        stranger.close()
