import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from deepfake_tools import errors as failures
from deepfake_tools.errors import ServiceError
from deepfake_tools.torchserve.connection import (
    LARGEST_ANSWER_BYTES,
    Endpoint,
    Token,
    server_address,
)

from tests.unit.torchserve_stub import (
    HANG_UP,
    NO_ANSWER,
    NO_WORKER,
    REFUSED,
    Reply,
    Request,
    StubServer,
    detector_error,
    json_reply,
    torchserve_error,
)

TOKEN = Token("secret", "key_file.json")


def call(
    answer: Callable[[Request], Reply], token: Token | None = TOKEN, timeout: float = 10
) -> object:
    with StubServer(answer) as stub:
        return Endpoint(stub.address, token, timeout).call("POST", "/predictions/m", body=b"image")


@pytest.mark.parametrize(
    ("reply", "failure", "words"),
    [
        (detector_error(400, "not_an_image", "no"), failures.ImageRefusedError, "not_an_image: no"),
        (
            detector_error(413, "image_too_large", "no"),
            failures.ImageRefusedError,
            "image_too_large",
        ),
        (detector_error(500, "internal_error", "no"), failures.WorkerFailedError, "internal_error"),
        (Reply(413), failures.RequestTooLargeError, "max_request_size"),
        (
            torchserve_error(400, "InvalidKeyException", REFUSED),
            failures.TokenError,
            "refused the token from key_file.json",
        ),
        (
            torchserve_error(404, "ModelNotFoundException", "Model not found: m"),
            failures.ModelNotServedError,
            "Model not found: m",
        ),
        (
            torchserve_error(404, "ModelVersionNotFoundException", "Model version: 7 does not"),
            failures.ModelNotServedError,
            "version: 7",
        ),
        (
            torchserve_error(404, "ModelNotFoundException", "Model not found at: m@1.mar"),
            failures.RequestRefusedError,
            "not found at: m@1.mar",
        ),
        (
            torchserve_error(409, "ConflictStatusException", "already registered"),
            failures.RequestRefusedError,
            "already registered",
        ),
        (
            torchserve_error(503, "ServiceUnavailableException", NO_WORKER),
            failures.ServerBusyError,
            "queue is full",
        ),
        (
            torchserve_error(503, "InternalServerException", "Prediction failed"),
            failures.WorkerFailedError,
            "Prediction failed",
        ),
        (
            torchserve_error(500, "InternalServerException", "Worker died."),
            failures.WorkerFailedError,
            "Worker died",
        ),
        (
            torchserve_error(507, "InternalServerException", "Worker died."),
            failures.WorkerFailedError,
            "507",
        ),
        (
            torchserve_error(500, "InternalServerException", "Failed to start workers for m"),
            failures.NoWorkerError,
            "model_log.log",
        ),
        (Reply(502, b"<html>Bad Gateway"), failures.UnexpectedAnswerError, "not JSON"),
        (json_reply({}, 500), failures.UnexpectedAnswerError, "answered 500"),
        (Reply(200, b"ok"), failures.UnexpectedAnswerError, "not JSON"),
    ],
)
def test_each_answer_is_the_failure_that_it_stands_for(
    reply: Reply, failure: type[ServiceError], words: str
):
    with pytest.raises(failure, match=words) as caught:
        call(lambda _: reply)
    assert type(caught.value) is failure
    assert "\n" not in str(caught.value)


def test_a_missing_and_an_expired_token_are_told_apart_from_a_wrong_one():
    def refuse(_: Request) -> Reply:
        return torchserve_error(400, "InvalidKeyException", REFUSED)

    with pytest.raises(failures.TokenError, match=r"none was found: .*--key-file"):
        call(refuse, token=None)
    expired = Token("secret", "k.json", datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC))
    with pytest.raises(failures.TokenError, match=r"k\.json expired at 2001-02-03 04:05:06 UTC"):
        call(refuse, token=expired)


def test_a_refusal_keeps_its_status():
    with pytest.raises(failures.RequestRefusedError) as caught:
        call(lambda _: torchserve_error(409, "ConflictStatusException", "no"))
    assert caught.value.status == 409


def test_no_server_at_the_address():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        server = Endpoint(f"http://127.0.0.1:{bound.getsockname()[1]}", TOKEN, 10)
        with pytest.raises(failures.ServerUnreachableError, match="make serve"):
            server.call("GET", "/models")


def test_a_broken_connection():
    with pytest.raises(failures.ConnectionLostError, match="without an answer"):
        call(lambda _: HANG_UP)


@pytest.mark.parametrize("reply", [NO_ANSWER, Reply(200, b"{", missing=1)])
def test_the_time_limit_holds_before_and_within_the_answer(reply: Reply):
    with pytest.raises(failures.TimeLimitError, match=r"within 0\.2 s"):
        call(lambda _: reply, timeout=0.2)


def test_an_endless_answer_is_cut_off():
    endless = Reply(200, b" " * (LARGEST_ANSWER_BYTES + 64 * 1024), missing=1)
    with pytest.raises(failures.UnexpectedAnswerError, match="longer than"):
        call(lambda _: endless)


def test_the_request_carries_token_type_and_the_whole_body():
    body = bytes(range(256)) * 20_000
    with StubServer(lambda _: json_reply({})) as stub:
        Endpoint(stub.address + "/", TOKEN, 10).call(
            "POST", "/predictions/m", body=body, content_type="application/octet-stream"
        )
    (request,) = stub.requests
    assert (request.method, request.path) == ("POST", "/predictions/m")
    assert request.headers["Authorization"] == "Bearer secret"
    assert request.headers["Content-Type"] == "application/octet-stream"
    assert request.body == body


def test_without_a_token_none_is_sent():
    with StubServer(lambda _: json_reply({})) as stub:
        Endpoint(stub.address, None, 10).call("GET", "/models")
    assert "Authorization" not in stub.requests[0].headers


def test_netrc_does_not_replace_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for token, expected in ((TOKEN, "Bearer secret"), (None, None)):
        with StubServer(lambda _: json_reply({})) as stub:
            Endpoint(stub.address, token, 10).call("GET", "/models")
        assert stub.requests[0].headers.get("Authorization") == expected


def test_a_proxy_does_not_get_requests_to_this_machine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with StubServer(lambda _: Reply(500)) as proxy, StubServer(lambda _: json_reply({})) as stub:
        monkeypatch.setenv("http_proxy", proxy.address)
        Endpoint(stub.address, TOKEN, 10).call("GET", "/models")
        assert (len(proxy.requests), len(stub.requests)) == (0, 1)


def test_a_redirection_is_not_followed_with_the_token():
    with StubServer(lambda _: json_reply({})) as other:
        with pytest.raises(failures.UnexpectedAnswerError):
            call(lambda _: Reply(307, headers={"Location": other.address}))
        assert other.requests == []


@pytest.mark.parametrize(
    "text",
    [
        *("127.0.0.1:8080", "ftp://host:1", "http://", "localhost", "http://h/?a=b", "http://[::"),
        *("http://127.0.0.1:99999", "http://127.0.0.1:65536", "http://127.0.0.1:-1", "http://h:x"),
        *("http://h:0", "http://h:", "http://:8080", "http://h:80:80", "http://me:secret@h:8080"),
        *("http://h?", "http://h#a", "http://ho st", "http://h\n", "http://h/a b", "http:\\\\h"),
        *("http://256.0.0.1", "http://1.2.3.4.5", "http://[::g]", "http://[1.2.3.4]"),
        *("http://.h", "http://h..example", "http://-h", "http://h*", "http://" + 64 * "a"),
        *("http://\N{SOFT HYPHEN}", "https:///", "", "http:/h", "http://h%20a"),
    ],
)
def test_what_is_no_address_is_refused(text: str):
    with pytest.raises(ValueError, match="is not an address such as") as caught:
        server_address(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        *("http://127.0.0.1:8080", "https://[::1]:8443", "http://localhost", "http://127.1:65535"),
        *("https://detector.example/torchserve", "http://my_host-2:1", "http://b\xfccher.example"),
        *("http://[fe80::1%25eth0]:80", "http://host.example."),
    ],
)
def test_what_may_be_an_address_is_taken(text: str):
    assert server_address(text + "/") == text
