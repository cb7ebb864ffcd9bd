import json
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from deepfake_tools.canary import canary_image
from deepfake_tools.operations.readiness import DrainingMark, NotReadyError
from deepfake_tools.store import Store
from deepfake_tools.torchserve.local_server import LocalServer

from tests.archives import write_archive
from tests.drills.drill import version_load
from tests.serving.manage_runs import Manage
from tests.waiting import wait_until

pytestmark = pytest.mark.serving

NAME = "acme--full"
CLIENTS = 16


@pytest.fixture(scope="module")
def started(store: Path, start_server: Callable[..., LocalServer]) -> LocalServer:
    write_archive(store, NAME, workers=2, delay_s=0.05)
    return start_server()


@pytest.fixture
def server(started: LocalServer) -> LocalServer:
    """The server, started again where a test has stopped it."""
    if started.has_ended:
        started.stop()
        started.start()
    started.wait_ready(NAME)
    return started


@pytest.fixture
def manage(server: LocalServer, store: Path) -> Manage:
    return Manage(server, store)


class Balancer:
    """Asks the probe now and then, as a load balancer does; `is_ready` is what it knows."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.is_ready = True
        self._thread.start()

    def ask(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self._address + path, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.1):
            self.is_ready = self.ask("/ready")[0] == 200


@pytest.fixture
def balancer(manage: Manage) -> Iterator[Balancer]:
    command = manage.command("probe", "--listen", "127.0.0.1:0")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as probe:
        # "answering /ready, /live and /v2 at ADDRESS"
        balancer = Balancer(probe.stdout.readline().split()[-1])
        yield balancer
        balancer.end()
        probe.terminate()


def stop_command(manage: Manage, grace_s: float) -> list[str]:
    return manage.command("stop", "--pid-file", manage.server.pid_file, "--grace", grace_s)


def test_an_interrupted_stop_leaves_the_server_ready_as_before(manage, balancer, tmp_path):
    assert balancer.ask("/ready") == (200, f"ready: {NAME} version 1 (2 of 2 workers)\n")
    paths = ("/v2/health/ready", f"/v2/models/{NAME}/ready", f"/v2/models/{NAME}/versions/1/ready")
    assert [balancer.ask(path)[0] for path in paths] == [200] * 3
    assert json.loads(balancer.ask(f"/v2/models/{NAME}")[1])["versions"] == ["1"]

    with subprocess.Popen(stop_command(manage, 60), stdout=subprocess.PIPE, text=True) as stop:
        assert "readiness is off" in stop.stdout.readline()
        status, why = balancer.ask("/ready")
        assert [balancer.ask(path)[0] for path in paths] == [503] * 3
        ready, swap = manage("ready"), manage("swap", write_archive(tmp_path, NAME, "2"))
        stop.send_signal(signal.SIGINT)

    assert stop.returncode == 130
    assert status == 503
    assert f"process {stop.pid}" in why
    assert ready.returncode == swap.returncode == NotReadyError.exit_code
    assert "is being stopped" in ready.stderr
    assert balancer.ask("/ready")[0] == 200
    assert balancer.ask("/live") == (200, "live\n")
    assert balancer.ask("/ping")[0] == 404
    assert manage("ready").returncode == 0


def test_a_stop_at_full_load_loses_nothing_behind_a_balancer(server, manage, balancer, store):
    with version_load(server, NAME, canary_image(), CLIENTS, lambda: balancer.is_ready) as load:
        load.wait_for(3 * CLIENTS)
        stop = subprocess.run(
            stop_command(manage, 3), capture_output=True, text=True, timeout=60, check=False
        )

    assert stop.returncode == 0, stop.stderr
    assert load.failures == []
    # The launcher, which waits for Java, ends a moment after it.
    wait_until(lambda: server.has_ended, limit_s=5)
    assert not server.key_file.exists()
    assert not DrainingMark(Store(store)).path.exists()
    assert balancer.ask("/ready")[0] == balancer.ask("/live")[0] == 503
