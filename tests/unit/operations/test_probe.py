import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import pytest
from deepfake_tools.errors import ServerUnreachableError
from deepfake_tools.operations import probe as module
from deepfake_tools.operations.model_metadata import VersionState
from deepfake_tools.operations.probe import Probe
from deepfake_tools.operations.readiness import NotReadyError
from tritonclient.http import InferenceServerClient


class Checks:
    """What the probe asks, and how often it did."""

    def __init__(self) -> None:
        self.draining = False
        self.looks = 0
        self.failing: dict[str, Exception] = {}

    def check_draining(self) -> None:
        if self.draining:
            raise NotReadyError("being stopped")
        self.fail("check_draining")

    def fail(self, place: str) -> None:
        if place in self.failing:
            raise self.failing[place]

    def ready(self) -> str:
        self.looks += 1
        self.fail("ready")
        return "ready: ä"

    def live(self) -> str:
        raise ServerUnreachableError("no server answers")

    def versions(self) -> tuple[VersionState, ...]:
        self.looks += 1
        self.fail("versions")
        return (
            VersionState("m", "1", is_default=False, is_ready=False),
            VersionState("m", "2", is_default=True, is_ready=True),
            VersionState("n-ä", "1", is_default=True, is_ready=False),
        )


@pytest.fixture
def checks() -> Checks:
    return Checks()


@pytest.fixture
def address(checks: Checks) -> Iterator[str]:
    probe = Probe("127.0.0.1", 0, checks.check_draining, checks.ready, checks.live, checks.versions)
    thread = threading.Thread(target=probe.serve)
    thread.start()
    yield f"http://127.0.0.1:{probe.port}"
    probe.close()
    thread.join()


@pytest.fixture
def ask(address: str) -> Callable[..., tuple[int, str]]:
    def ask(path: str, method: str = "GET") -> tuple[int, str]:
        request = urllib.request.Request(address + path, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    return ask


def test_it_answers_with_a_status_and_a_line(ask):
    assert ask("/ready?from=balancer") == (200, "ready: ä\n")
    assert ask("/ready", "HEAD") == (200, "")
    assert ask("/live") == (503, "no server answers\n")
    assert ask("/") == (404, "ask for /ready, /live, /v2 or /metrics\n")


@pytest.fixture
def client(address: str) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(address.removeprefix("http://")) as client:
        yield client


def test_a_v2_client_reads_health_and_readiness(client, ask, checks):
    assert not client.is_server_live()
    assert client.is_server_ready()
    ready = [client.is_model_ready(name) for name in ("m", "n-%C3%A4", "nobody")]
    assert ready == [True, False, False]
    assert [client.is_model_ready("m", version) for version in ("1", "2", "3")] == [
        False,
        True,
        False,
    ]
    assert json.loads(ask("/v2/health/live")[1]) == {"live": False}
    assert json.loads(ask("/v2/models/m/ready")[1]) == {"name": "m", "ready": True}
    checks.draining = True
    assert not client.is_server_ready()
    assert not client.is_model_ready("m")
    assert json.loads(ask("/v2/health/ready")[1]) == {"ready": False}
    assert ask("/v2/models/m")[0] == 200


def test_a_v2_client_reads_what_is_served_and_what_it_takes(client):
    server = client.get_server_metadata()
    assert (server["name"], server["extensions"]) == ("clip-deepfake", ["binary_tensor_data"])
    model = client.get_model_metadata("m", "1")
    assert (model["name"], model["versions"]) == ("m", ["1", "2"])
    assert model["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    outputs = {output["name"]: output["datatype"] for output in model["outputs"]}
    assert outputs == {
        "fake_probability": "FP64",
        "label": "BYTES",
        "error": "BYTES",
        "verdict": "BYTES",
    }
    assert {tuple(output["shape"]) for output in model["outputs"]} == {(-1,)}


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("/v2/models/nobody", "no such model"),
        ("/v2/models/m/versions/3", "no such model"),
        ("/v2/models/m/versions/3/ready", "no such model"),
        ("/v2/models/m/infer", "inference port"),
        ("/v2/models", "inference port"),
        ("/v2/health/started", "inference port"),
        ("/v2/", "inference port"),
        (f"/v2/models/{'m' * 9000}", "no such model"),
        ("/v2/models/%00%ff", "no such model"),
    ],
)
def test_what_is_not_there_is_404_with_an_error(ask, path, word):
    status, body = ask(path)
    assert status == 404
    (message,) = json.loads(body).values()
    assert word in message
    assert len(body) < 300


@pytest.mark.parametrize("place", ["check_draining", "ready", "versions"])
def test_strangers_are_not_told_why_by_the_v2_routes(ask, checks, place):
    checks.failing[place] = NotReadyError("/srv/model_store/a@1.mar is missing")
    for path in ("/v2/health/ready", "/v2/models/m", "/v2/models/m/ready", "/v2"):
        status, body = ask(path)
        assert status in (200, 503)
        assert "srv" not in body
    assert ask("/v2/models/m/ready")[0] == (200 if place == "ready" else 503)


def test_many_v2_questions_cost_one_look(ask, checks):
    for path in ("/v2/models/m", "/v2/models/m/ready", "/v2/models/nobody") * 3:
        ask(path)
    assert checks.looks < 9


def test_the_end_of_readiness_shows_at_once_and_many_questions_cost_one_look(ask, checks):
    assert {ask("/ready")[0] for _ in range(5)} == {200}
    checks.draining = True
    assert ask("/ready") == (503, "being stopped\n")
    checks.draining = False
    assert ask("/ready")[0] == 200
    assert checks.looks < 6


def test_prometheus_reads_the_same(ask, checks):
    def gauges() -> list[str]:
        status, page = ask("/metrics")
        assert status == 200
        return [line for line in page.splitlines() if not line.startswith("#")]

    assert gauges() == ["clip_deepfake_ready 1", "clip_deepfake_live 0"]
    checks.draining = True
    assert gauges() == ["clip_deepfake_ready 0", "clip_deepfake_live 0"]


def test_a_stranger_who_says_nothing_keeps_nobody_waiting(ask, address):
    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as silent:
        silent.sendall(b"GET /re")
        assert ask("/ready")[0] == 200


@pytest.mark.parametrize(
    "error", [PermissionError(13, "denied"), UnicodeError("odd\nfile"), KeyError("a")]
)
@pytest.mark.parametrize("place", ["check_draining", "ready"])
def test_what_goes_wrong_in_a_check_is_answered_with_503(ask, checks, error, place):
    checks.failing[place] = error
    status, line = ask("/ready")
    assert status == 503
    assert line.startswith(type(error).__name__)
    assert line.count("\n") == 1
    assert "clip_deepfake_ready 0" in ask("/metrics")[1]


def test_a_stranger_who_trickles_is_hung_up_on(address, monkeypatch):
    monkeypatch.setattr(module, "SILENCE_LIMIT_S", 0.3)
    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as slow:
        slow.settimeout(0.05)
        slow.sendall(b"GET /ready HTTP/1.0\r\n")
        start = time.monotonic()
        while time.monotonic() - start < 5:
            try:
                slow.sendall(b"a: b\r\n")
                if slow.recv(100) == b"":
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        assert 0.2 < time.monotonic() - start < 3
