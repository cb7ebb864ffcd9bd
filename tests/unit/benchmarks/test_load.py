"""The load generator that benchmarks and drills share."""

import json
from collections.abc import Callable
from itertools import count, repeat
from pathlib import Path

import pytest
from deepfake_tools.torchserve.local_server import LocalServer

from benchmarks.load import Load, RequestTemplate, prediction
from tests.drills.drill import version_load
from tests.unit.benchmarks.conftest import Answer

Serve = Callable[[Answer], int]


def template(port: int) -> RequestTemplate:
    return RequestTemplate(port, "/predict", {"Content-Type": "application/octet-stream"})


def server_at(folder: Path) -> LocalServer:
    """A server that is not started, with its tokens."""
    server = LocalServer(folder, folder / "config.properties", folder)
    key = {"key": "secret", "expiration time": "2999-01-01T00:00:00Z"}
    server.key_file.write_text(json.dumps(dict.fromkeys(("management", "inference"), key)))
    server.key_file.chmod(0o600)
    return server


def echo(asked: int, status: int, body: bytes) -> tuple[int, str]:
    return status, json.loads(body)


def test_what_is_asked_about_once_is_answered_once(serve: Serve):
    port = serve(lambda body: (200 if body < b"5" else 400, body.decode()))
    bodies = [(number, str(number).encode()) for number in range(9)]
    with Load(template(port), iter(bodies), 3, echo) as load:
        load.join()
    found = sorted((one.asked, one.answer, one.failure) for one in load.exchanges)
    assert found == [(i, (200 if i < 5 else 400, str(i)), None) for i in range(9)]
    assert all(one.sent < one.ended for one in load.exchanges)
    assert load.failures == []


def test_a_failure_is_told_and_asking_goes_on(serve: Serve, tmp_path: Path):
    numbers = count()

    def now_and_then(body: bytes) -> tuple[int, object]:
        return (507, {}) if next(numbers) % 3 == 0 else (200, {"detector": {"version": "4"}})

    server = server_at(tmp_path)
    server.inference_url = f"http://127.0.0.1:{serve(now_and_then)}"
    with version_load(server, "a", b"image", 2) as load:
        load.wait_for(6)
    assert {one.answer for one in load.exchanges} == {"4", None}
    assert len(load.failures) >= 3
    assert all("status 507" in str(one.failure) for one in load.failures)


def test_the_first_failure_ends_the_load_where_that_is_wanted(serve: Serve):
    port = serve(lambda body: (200, "right") if body != b"3" else (200, ""))

    def read(asked: int, status: int, body: bytes) -> str:
        if json.loads(body) != "right":
            raise ValueError(f"wrong about {asked}")
        return "right"

    bodies = ((number, str(number).encode()) for number in count())
    with Load(template(port), bodies, 1, read, until_failure=True) as load:
        load.wait(60.0)
        assert load.all_met
    assert [one.asked for one in load.exchanges] == [0, 1, 2, 3]
    assert [one.failure for one in load.failures] == ["ValueError('wrong about 3')"]


def test_nobody_asks_while_a_balancer_says_no(serve: Serve):
    asked: list[bytes] = []

    def note(body: bytes) -> tuple[int, object]:
        asked.append(body)
        return 200, "x"

    port, looked = serve(note), iter([True] * 5 + [False] * 3)
    with Load(
        template(port), repeat((0, b"i")), 1, echo, may_send=lambda: next(looked, False)
    ) as load:
        load.wait_for(5)
        with pytest.raises(TimeoutError, match="1 answers are missing: no failure either"):
            load.wait_for(1, limit_s=0.2)
    assert len(load.exchanges) == len(asked) == 5


def test_answers_that_do_not_come_are_missed_with_the_failure():
    with (
        Load(template(1), repeat((0, b"")), 1, echo) as load,
        pytest.raises(TimeoutError, match="2 answers are missing: ConnectionRefusedError"),
    ):
        load.wait_for(2, limit_s=0.2)


def test_a_prediction_carries_the_servers_token(tmp_path: Path):
    server = server_at(tmp_path)
    found = prediction(server, "acme--small", "2")
    assert found.path == "/predictions/acme--small/2"
    assert f":{found.port}" in server.inference_url
    assert found.headers["Authorization"] == "Bearer secret"
    assert prediction(server, "acme--small").path == "/predictions/acme--small"
