"""HTTP calls to one address of TorchServe, with its token, and what each failure means."""

import io
import re
import socket
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from deepfake_tools.errors import (
    ConnectionLostError,
    ModelNotServedError,
    NoWorkerError,
    RequestRefusedError,
    RequestTooLargeError,
    ServerBusyError,
    ServerUnreachableError,
    ServiceError,
    TimeLimitError,
    TokenError,
    UnexpectedAnswerError,
    WorkerFailedError,
    one_line,
)
from deepfake_tools.torchserve.answers import detector_failure, parse_json
from deepfake_tools.torchserve.deadline import DeadlineAdapter, is_over, time_limit

KEY_FILE_NAME = "key_file.json"
LARGEST_ANSWER_BYTES = 8 * 1024 * 1024
LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
# Of certificates and proxies; the last two are a proxy's address that cannot be used.
UNUSABLE = (
    requests.exceptions.SSLError,
    requests.exceptions.ProxyError,
    requests.exceptions.InvalidSchema,
    requests.exceptions.InvalidURL,
)


class Purpose(StrEnum):
    """What a token opens, by its name in TorchServe's key file; API renews the other two."""

    INFERENCE = "inference"
    MANAGEMENT = "management"
    API = "API"


@dataclass(frozen=True)
class Token:
    """A bearer token.

    Attributes:
        value: The secret; kept out of `repr`, and so out of logs.
        source: Where it was found, for messages.
        expires: When TorchServe stops taking it, where the key file says so.
    """

    value: str = field(repr=False)
    source: str
    expires: datetime | None = None

    @property
    def has_expired(self) -> bool:
        """Whether the key file's own expiry time lies in the past."""
        return self.expires is not None and self.expires <= datetime.now(UTC)


def server_address(text: str) -> str:
    """Returns an address without its final slash.

    Raises:
        ValueError: It is not http://HOST:PORT or https://HOST:PORT, with a path at most, or no
            server can ever be there.
    """
    reason = _why_no_address(text)
    if reason is not None:
        raise ValueError(f"{text!r} is not an address such as http://127.0.0.1:8080: {reason}")
    return text.rstrip("/")


def _why_no_address(text: str) -> str | None:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        return str(error)
    if parts.scheme not in ("http", "https"):
        return "it begins with neither http:// nor https://"
    if any(not char.isprintable() or char in " \\?#" for char in text):
        return "it holds a blank, a backslash, ? or #"
    if "@" in parts.netloc:
        return "a name or password has no place in it, the token is given by --key-file"
    if parts.netloc.endswith(":") or port == 0:
        return "there is no port 0"
    return _why_no_host(parts.hostname or "")


def _why_no_host(host: str) -> str | None:
    if ":" in host:
        return None  # in brackets, where urlsplit has found an IPv6 address
    try:
        encoded = host.encode("idna").decode("ascii")
    except UnicodeError as error:
        return f"the host {host!r} is no name ({error})"
    labels = encoded.removesuffix(".").split(".")
    if not all(LABEL.fullmatch(label) for label in labels):
        return f"the host {host!r} is no name"
    if labels[-1].isdecimal():
        # Of digits alone, the last part of a name makes it an IPv4 address.
        try:
            socket.inet_aton(encoded)
        except OSError:
            return f"the host {host!r} is no IPv4 address"
    return None


class Endpoint:
    """One address of TorchServe and the token for it.

    Args:
        address: Such as http://127.0.0.1:8080.
        token: A token for the API at that address; None where the server runs without tokens.
        timeout: Seconds for a call, from connecting to the answer's last byte, unless it says
            otherwise.
        ca: A file with the certificates to trust over https; None for requests' own choice.
    """

    def __init__(
        self, address: str, token: Token | None, timeout: float, ca: Path | None = None
    ) -> None:
        self._address = server_address(address)
        self._token = token
        self._timeout = timeout
        # With each request: of a session's own, REQUESTS_CA_BUNDLE would take the place.
        self._verify = None if ca is None else str(ca)
        self._session = requests.Session()
        self._session.auth = _BearerAuth(token)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, DeadlineAdapter())
        host = urlsplit(self._address).hostname
        # A proxy cannot reach this machine's loopback address, and must not be shown the token.
        self._proxies = {"no_proxy": host} if host in ("127.0.0.1", "localhost") else None

    def call(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        *,
        body: bytes | None = None,
        content_type: str | None = None,
        timeout: float | None = None,
    ) -> object:
        """Sends a request and returns the answer's JSON value, None for an empty one.

        A list is an answer whatever its status: the detector's, on several images, of which none
        has a verdict.

        Raises:
            ServiceError: What went wrong instead, as one of `errors.FAILURES`.
        """
        seconds = self._timeout if timeout is None else timeout
        with time_limit(seconds):
            try:
                status, answer = self._exchange(method, path, query, body, content_type)
            except requests.RequestException as error:
                raise _transport_failure(self._address, error, seconds) from error
        if 200 <= status < 300:
            return parse_json(answer) if answer.strip() else None
        if answer.startswith(b"[") and isinstance(entries := parse_json(answer), list):
            return entries
        raise _failure(status, answer, self._token)

    def _exchange(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None,
        body: bytes | None,
        content_type: str | None,
    ) -> tuple[int, bytes]:
        """Returns an answer's status and its body."""
        with self._session.request(
            method,
            self._address + path,
            params=query,
            # As a file it is sent in blocks, between which the time limit is looked at.
            data=None if body is None else io.BytesIO(body),
            headers={} if content_type is None else {"Content-Type": content_type},
            proxies=self._proxies,
            verify=self._verify,
            allow_redirects=False,
            stream=True,
        ) as response:
            return response.status_code, _bounded_body(response)


class _BearerAuth(AuthBase):
    """Sets the header as an `auth`, since requests lets .netrc replace a plain header."""

    def __init__(self, token: Token | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token.value}"
        return request


def _bounded_body(response: requests.Response) -> bytes:
    body = b""
    for chunk in response.iter_content(64 * 1024):
        body += chunk
        if len(body) > LARGEST_ANSWER_BYTES:
            raise UnexpectedAnswerError(
                f"the answer is longer than {LARGEST_ANSWER_BYTES} bytes: is a TorchServe at this "
                "address?"
            )
    return body


def _transport_failure(
    address: str, error: requests.RequestException, seconds: float
) -> ServiceError:
    """Turns an exchange that broke into a failure, by urllib3's reason under requests' error."""
    cause = error.args[0] if error.args else None
    reason = getattr(cause, "reason", cause)
    if isinstance(reason, NewConnectionError | ConnectTimeoutError):
        return ServerUnreachableError(
            f"no server answers at {address}: start one with `make serve`, or give the right "
            "address"
        )
    if isinstance(error, UNUSABLE):
        return ServerUnreachableError(
            f"no connection to {address}: {one_line(reason)}; --ca names the file of a certificate "
            "that no public authority has signed, NO_PROXY the hosts to reach without a proxy"
        )
    if is_over():
        return TimeLimitError(
            f"{address} gave no answer within {seconds:.3g} s: see the server's logs/ts_log.log, "
            "or allow more with --timeout"
        )
    return ConnectionLostError(
        f"{address} closed the connection without an answer: the server was stopped, or the model "
        "unregistered; ask again"
    )


def _failure(status: int, body: bytes, token: Token | None) -> ServiceError:
    """Turns an answer other than 2xx into the failure that it stands for."""
    if status == 413 and not body:
        return RequestTooLargeError(
            "the server takes no request this large: raise max_request_size in config.properties "
            "and restart it, or send a smaller image"
        )
    answer = parse_json(body)
    if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
        return detector_failure(status, answer["error"])
    if isinstance(answer, dict) and isinstance(answer.get("type"), str):
        return _server_failure(status, answer["type"], one_line(answer.get("message")), token)
    return UnexpectedAnswerError(
        f"the server answered {status} and {one_line(answer, 80)!r}: is a TorchServe at this "
        "address?"
    )


def _server_failure(status: int, kind: str, message: str, token: Token | None) -> ServiceError:
    if kind == "InvalidKeyException":
        return TokenError(_why_refused(token))
    if kind == "ModelVersionNotFoundException" or message.startswith("Model not found:"):
        return ModelNotServedError(message)
    if message.startswith("Failed to start workers"):
        return NoWorkerError(f"{message}; the reason is in the server's logs/model_log.log")
    if kind == "ServiceUnavailableException":
        # TorchServe says "has no worker" of a full queue as well.
        return ServerBusyError(
            "the model's queue is full, or none of its workers runs: ask again later, or see "
            "`python scripts/manage.py list`"
        )
    if status >= 500:
        return WorkerFailedError(
            f"the server answered {status}, {message!r}: ask again; if it stays so, the reason is "
            "in the server's logs/model_log.log",
            # 503 is an exception out of the handler, which fails a whole batch for one request.
            is_passing=status == 503 or message == "Worker died.",
        )
    return RequestRefusedError(f"the server refused it with {status}, {kind}: {message}", status)


def _why_refused(token: Token | None) -> str:
    if token is None:
        return (
            "the server wants a token, and none was found: give its key file with --key-file (the "
            f"{KEY_FILE_NAME} in the folder that it was started in)"
        )
    if token.has_expired:
        return (
            f"the token from {token.source} expired at {token.expires:%Y-%m-%d %H:%M:%S} UTC: "
            "restart the server, or renew it with the key file's API key"
        )
    return (
        f"the server refused the token from {token.source}: it is another server's, has expired, "
        "or is not for this API"
    )
