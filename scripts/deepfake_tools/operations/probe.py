"""A port that tells load balancers and Prometheus, without a token, whether the server is ready."""

import sys
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedReader
from typing import TypeVar

from deepfake_tools.errors import ServiceError, one_line
from deepfake_tools.torchserve.deadline import DeadlineReader

T = TypeVar("T")

METRICS = "/metrics"
# A look at the server holds for this long, so that many balancers cost it no more than one.
REMEMBER_S = 0.5
# A stranger who connects and says nothing.
SILENCE_LIMIT_S = 5.0

Check = Callable[[], str]
"""Returns what is well in one line, or raises ServiceError."""


class _UnwellError(Exception):
    """A check failed; the line says why."""


class Probe:
    """Answers GET /ready and GET /live with 200 or 503, and a line that says why.

    GET /metrics has both as gauges, `clip_deepfake_ready` and `clip_deepfake_live`, 1 or 0: that a
    worker is READY is on none of TorchServe's own metrics.

    Args:
        host: The address to listen on.
        port: The port; 0 for any free one.
        draining: Raises while the server is being stopped; asked on every request.
        ready: Says whether requests are answered.
        live: Says whether the server's process answers at all.

    Attributes:
        port: The port that it listens on.
    """

    def __init__(
        self, host: str, port: int, draining: Callable[[], None], ready: Check, live: Check
    ) -> None:
        remembered = _Remembered(ready)

        def check_ready() -> str:
            _outcome(draining)
            return remembered()

        checks: dict[str, Check] = {"/ready": check_ready, "/live": _Remembered(live)}
        self._http = _Sockets((host, port), _handler(checks))
        self._http.daemon_threads = True
        self.port = self._http.server_port

    def serve(self) -> None:
        """Answers until `close`, from another thread, or an interruption."""
        with self._http:
            self._http.serve_forever(poll_interval=0.1)

    def close(self) -> None:
        """Ends `serve`."""
        self._http.shutdown()


class _Sockets(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Says nothing of strangers who hang up or fall silent."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def _outcome(check: Callable[[], T]) -> T:
    """Returns what a check says.

    Whatever goes wrong in one, a file that cannot be read say, the answer is no: to a balancer, a
    connection that breaks off says nothing of the server.

    Raises:
        _UnwellError: It failed.
    """
    try:
        return check()
    except ServiceError as error:
        raise _UnwellError(str(error)) from error
    except Exception as error:
        raise _UnwellError(one_line(f"{type(error).__name__}: {error}")) from error


class _Remembered:
    """A check whose outcome holds for a moment; of several threads one makes it."""

    def __init__(self, check: Check) -> None:
        self._check = check
        self._lock = threading.Lock()
        self._until = 0.0
        self._outcome: str | _UnwellError = ""

    def __call__(self) -> str:
        with self._lock:
            if time.monotonic() > self._until:
                try:
                    self._outcome = _outcome(self._check)
                except _UnwellError as error:
                    self._outcome = error
                self._until = time.monotonic() + REMEMBER_S
            outcome = self._outcome
        if isinstance(outcome, _UnwellError):
            raise outcome
        return outcome


def _gauges(checks: Mapping[str, Check]) -> str:
    """Returns what the checks say, as Prometheus reads it."""
    lines = []
    for path, check in checks.items():
        name = f"clip_deepfake_{path.removeprefix('/')}"
        try:
            check()
            value = 1
        except _UnwellError:
            value = 0
        lines += [f"# HELP {name} Whether GET {path} is answered with 200."]
        lines += [f"# TYPE {name} gauge", f"{name} {value}"]
    return "\n".join(lines)


def _handler(checks: Mapping[str, Check]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = SILENCE_LIMIT_S
        server_version = "probe"
        sys_version = ""

        def setup(self) -> None:
            super().setup()
            # The time limit of a read alone is kept by a byte now and then, too.
            deadline = time.monotonic() + SILENCE_LIMIT_S
            self.rfile = BufferedReader(DeadlineReader(self.connection, deadline))

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            check = checks.get(path)
            if path == METRICS:
                self._answer(HTTPStatus.OK, _gauges(checks))
                return
            if check is None:
                self._answer(HTTPStatus.NOT_FOUND, f"ask for {', '.join(checks)} or {METRICS}")
                return
            try:
                self._answer(HTTPStatus.OK, check())
            except _UnwellError as error:
                self._answer(HTTPStatus.SERVICE_UNAVAILABLE, str(error))

        do_HEAD = do_GET  # noqa: N815

        def _answer(self, status: HTTPStatus, text: str) -> None:
            body = (text + "\n").encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Cache-Control", "no-store")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Keeps a line a second out of the log."""

    return Handler
