import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from deepfake_tools.errors import TokenError
from deepfake_tools.torchserve.connection import Purpose
from deepfake_tools.torchserve.tokens import Credentials, find_key, find_token, fresh_key

from tests.unit.torchserve_stub import (
    REFUSED,
    Reply,
    Request,
    StubServer,
    torchserve_error,
)

PAST, FUTURE = "2001-01-01T00:00:00Z", "2126-01-01T00:00:00Z"


@pytest.fixture(autouse=True)
def no_token_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TORCHSERVE_TOKEN", raising=False)
    monkeypatch.delenv("TORCHSERVE_KEY_FILE", raising=False)


def write_keys(path: Path, prefix: str, expires: str = "2126-11-22T18:08:00.587266027Z") -> Path:
    keys = {
        "management": {"key": f"{prefix}-management", "expiration time": expires},
        "inference": {"key": f"{prefix}-inference", "expiration time": expires},
        "API": {"key": f"{prefix}-api"},
    }
    path.write_text(json.dumps(keys, indent=2))
    path.chmod(0o600)
    return path


def test_no_token_is_not_an_error():
    assert find_token(Purpose.INFERENCE) is None
    assert find_key(Purpose.MANAGEMENT) is None


def test_the_places_are_looked_at_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def found(**options: Path) -> str:
        token = find_token(Purpose.INFERENCE, **options)
        assert token is not None
        return token.value

    write_keys(tmp_path / "key_file.json", "here")
    assert found() == "here-inference"
    monkeypatch.setenv("TORCHSERVE_KEY_FILE", str(write_keys(tmp_path / "k.json", "named")))
    assert found() == "named-inference"
    monkeypatch.setenv("TORCHSERVE_TOKEN", "environment")
    assert found() == "environment"
    assert found(key_file=write_keys(tmp_path / "o.json", "option")) == "option-inference"
    token_file = tmp_path / "token"
    token_file.write_text("in-file\n")
    token_file.chmod(0o600)
    assert found(token_file=token_file) == "in-file"


def test_each_api_has_its_own_token(tmp_path: Path):
    path = write_keys(tmp_path / "k.json", "x")
    token = find_token(Purpose.MANAGEMENT, key_file=path)
    assert token is not None
    assert token.value == "x-management"


def test_the_management_key_is_not_taken_from_the_environments_token(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("TORCHSERVE_TOKEN", "for-inference")
    assert find_key(Purpose.MANAGEMENT) is None


@pytest.mark.parametrize(("year", "expired"), [("2001", True), ("2126", False)])
def test_a_key_file_says_when_its_tokens_expire(tmp_path: Path, year: str, expired: bool):
    time = f"{year}-11-22T18:08:00.587266027Z"
    token = find_key(Purpose.INFERENCE, write_keys(tmp_path / "k.json", "x", time))
    assert token is not None
    assert token.has_expired == expired
    assert token.expires == datetime(int(year), 11, 22, 18, 8, 0, 587266, tzinfo=UTC)


@pytest.mark.parametrize(
    "content",
    [
        b"not json",
        b"[]",
        b'{"inference": "token"}',
        b'{"management": {"key": "x"}}',
        b'{"inference": {"key": 7}}',
        b'{"inference": {"key": "x", "expiration time": "tomorrow"}}',
        b'{"inference": {"key": "two words"}}',
        b"\xff\xfe",
        b"[" * 50_000,
    ],
)
def test_a_key_file_that_is_none_is_named(tmp_path: Path, content: bytes):
    path = tmp_path / "k.json"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(TokenError, match=r"k\.json"):
        find_token(Purpose.INFERENCE, key_file=path)


@pytest.mark.parametrize("content", ["", "\n", "two words", "line\nline", "\N{EM DASH}"])
def test_a_token_that_fits_no_header_is_refused(tmp_path: Path, content: str):
    path = tmp_path / "token"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(TokenError, match="token does not hold a token"):
        find_token(Purpose.INFERENCE, token_file=path)


def test_a_place_that_is_named_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    missing = tmp_path / "missing"
    with pytest.raises(TokenError, match="missing: No such file"):
        find_token(Purpose.INFERENCE, token_file=missing)
    with pytest.raises(TokenError, match="missing: No such file"):
        find_token(Purpose.INFERENCE, key_file=missing)
    monkeypatch.setenv("TORCHSERVE_KEY_FILE", str(missing))
    with pytest.raises(TokenError, match="missing: No such file"):
        find_token(Purpose.INFERENCE)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_file_that_others_can_read_is_refused_with_the_remedy(tmp_path: Path, mode: int):
    keys = write_keys(tmp_path / "k.json", "secret")
    token = tmp_path / "the token"
    token.write_text("secret")
    for path in (keys, token):
        path.chmod(mode)
    with pytest.raises(TokenError, match=f"by other users .* chmod 600 {keys},") as refused:
        find_key(Purpose.INFERENCE, keys)
    with pytest.raises(TokenError, match=f"by other users .* chmod 600 '{token}',"):
        find_token(Purpose.INFERENCE, token_file=token)
    assert "secret-" not in str(refused.value)


def test_no_secret_is_shown(tmp_path: Path):
    token = find_key(Purpose.INFERENCE, write_keys(tmp_path / "k.json", "hidden"))
    assert token is not None
    assert "hidden" not in repr(token)


def test_a_token_may_come_out_of_a_pipe():
    reading, writing = os.pipe()
    os.write(writing, b"from-a-pipe\n")
    os.close(writing)
    token = find_token(Purpose.INFERENCE, token_file=Path(f"/dev/fd/{reading}"))
    os.close(reading)
    assert token is not None
    assert token.value == "from-a-pipe"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Where the key file is."""
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
