import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from deepfake_tools.errors import TokenError
from deepfake_tools.torchserve.credentials import Credentials, fresh_key
from deepfake_tools.torchserve.tokens import Purpose

from tests.unit.torchserve_stub import (
    REFUSED,
    Reply,
    Request,
    StubServer,
    torchserve_error,
)

PAST, FUTURE = "2001-01-01T00:00:00Z", "2126-01-01T00:00:00Z"


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the key file is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TORCHSERVE_TOKEN", raising=False)
    monkeypatch.delenv("TORCHSERVE_KEY_FILE", raising=False)
    return tmp_path / "key_file.json"


def write(keys: Path, token: str, expires: str) -> None:
    key = {"key": token, "expiration time": expires}
    partial = keys.with_suffix(".new")
    partial.write_text(json.dumps({"inference": key, "API": {"key": "the-api-key"}}))
    partial.chmod(0o600)
    partial.replace(keys)


class Renewing:
    """Renews as TorchServe does: a new token in the file, and an empty answer."""

    def __init__(self, keys: Path) -> None:
        self.keys = keys
        self.renewals = 0

    def __call__(self, request: Request) -> Reply:
        if request.headers.get("Authorization") != "Bearer the-api-key":
            return torchserve_error(400, "InvalidKeyException", REFUSED)
        assert (request.method, request.path) == ("GET", "/token?type=inference")
        self.renewals += 1
        write(self.keys, f"renewed-{self.renewals}", FUTURE)
        return Reply(200, b"\n")  # as TorchServe does


def value(credentials: Credentials) -> str:
    assert credentials.token is not None
    return credentials.token.value


def test_a_refused_token_is_read_again_and_not_renewed(keys: Path):
    write(keys, "old", FUTURE)
    server = Renewing(keys)
    with StubServer(server) as stub:
        credentials = Credentials(None, None, stub.address)
        refused = credentials.token
        assert not credentials.replace(refused), "it is another server's, and still good there"
        write(keys, "new", FUTURE)
        assert credentials.replace(refused)
    assert value(credentials) == "new"
    assert server.renewals == 0


def test_an_expired_token_is_renewed_once_by_however_many(keys: Path):
    write(keys, "old", PAST)
    server = Renewing(keys)
    with StubServer(server) as stub:
        others = [Credentials(None, None, stub.address) for _ in range(4)]
        refused = others[0].token
        together = threading.Barrier(8)

        def replace(credentials: Credentials) -> bool:
            together.wait(10)
            return credentials.replace(refused)

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(replace, others * 2))
    assert server.renewals == 1
    assert {value(credentials) for credentials in others} == {"renewed-1"}


def test_a_renewal_that_fails_says_so(keys: Path):
    write(keys, "old", PAST)
    credentials = Credentials(None, None, "http://127.0.0.1:9")
    with pytest.raises(
        TokenError, match=r"has expired, and http://127\.0\.0\.1:9 did not renew it"
    ):
        credentials.replace(credentials.token)


def test_a_token_from_elsewhere_is_never_renewed(keys: Path, monkeypatch: pytest.MonkeyPatch):
    write(keys, "old", PAST)
    monkeypatch.setenv("TORCHSERVE_TOKEN", "given")
    server = Renewing(keys)
    with StubServer(server) as stub:
        credentials = Credentials(None, None, stub.address)
        assert not credentials.replace(credentials.token)
    assert server.renewals == 0


def test_a_key_file_that_is_just_being_written_is_read_again(keys: Path):
    write(keys, "old", FUTURE)
    credentials = Credentials(None, None, "http://127.0.0.1:9")
    refused = credentials.token
    os.truncate(keys, 10)
    later = threading.Timer(0.05, write, (keys, "new", FUTURE))
    later.start()
    assert credentials.replace(refused)
    later.join()
    assert value(credentials) == "new"


def test_a_command_renews_the_token_that_it_needs_once_its_time_is_over(keys: Path):
    server = Renewing(keys)
    with StubServer(server) as stub:
        assert fresh_key(Purpose.INFERENCE, None, stub.address) is None
        write(keys, "good", FUTURE)
        assert fresh_key(Purpose.INFERENCE, keys, stub.address).value == "good"
        write(keys, "old", PAST)
        assert fresh_key(Purpose.INFERENCE, keys, stub.address).value == "renewed-1"
        assert fresh_key(Purpose.INFERENCE, keys, stub.address).value == "renewed-1"
    assert server.renewals == 1
