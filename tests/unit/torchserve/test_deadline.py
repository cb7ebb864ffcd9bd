import socket
import time
from collections.abc import Callable

import pytest
from deepfake_tools.errors import ServerUnreachableError, ServiceError, TimeLimitError
from deepfake_tools.torchserve.connection import Endpoint

from tests.unit import slow_server as slow
from tests.unit.slow_server import Visit, slow_server
from tests.unit.torchserve_stub import StubServer, json_reply

LIMIT_S = 0.4
# Far above the limit, for a busy machine, and far below what the servers below would take.
LATE_S = 2.5


def time_out(
    address: str, body: bytes | None = b"image", failure: type[ServiceError] = TimeLimitError
) -> str:
    """Returns what a call says that ends by its time limit."""
    start = time.monotonic()
    with pytest.raises(failure) as caught:
        Endpoint(address, None, LIMIT_S).call("POST", "/predictions/m", body=body)
    assert LIMIT_S - 0.05 < time.monotonic() - start < LATE_S
    return str(caught.value)


@pytest.mark.parametrize(
    "play",
    [
        slow.continue_for_ever,
        slow.trickle_status,
        slow.trickle_headers,
        slow.trickle_body,
        slow.trickle_last_body,
        slow.trickle_chunks,
        slow.say_nothing,
    ],
)
def test_an_answer_that_never_ends_is_given_up_at_the_time_limit(play: Callable[[Visit], None]):
    with slow_server(play) as port:
        assert "within 0.4 s" in time_out(f"http://127.0.0.1:{port}")


def test_a_server_that_takes_the_image_a_few_bytes_at_a_time_is_given_up():
    with slow_server(slow.take_body_slowly) as port:
        assert "within 0.4 s" in time_out(f"http://127.0.0.1:{port}", bytes(32 << 20))


def test_a_server_that_never_begins_tls_is_given_up():
    with slow_server(slow.say_nothing) as port:
        time_out(f"https://127.0.0.1:{port}", failure=ServiceError)


def test_a_proxy_that_never_opens_the_way_is_given_up(monkeypatch: pytest.MonkeyPatch):
    with slow_server(slow.trickle_headers) as port:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        time_out("https://torchserve.example", failure=ServiceError)


def test_all_addresses_of_a_host_have_one_time_limit(monkeypatch: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        place = full.getsockname()
        waiting = []
        while True:
            # Until the queue of connections is full and the system drops what comes.
            one = socket.socket()
            one.setblocking(False)
            waiting.append(one)
            one.connect_ex(place)
            if len(waiting) == 4:
                break
        address = (socket.AF_INET, socket.SOCK_STREAM, 6, "", place)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [address] * 20)
        said = time_out(f"http://127.0.0.1:{place[1]}", failure=ServerUnreachableError)
        assert "no server answers" in said
        for one in waiting:
            one.close()


def test_the_limit_is_of_one_call_and_the_connection_serves_the_next():
    def answer(_: object) -> object:
        time.sleep(0.3)
        return json_reply({"a": 1})

    with StubServer(answer) as stub:
        server = Endpoint(stub.address, None, 1.0)
        assert [server.call("GET", "/models") for _ in range(4)] == [{"a": 1}] * 4
