"""A port that tells load balancers and Prometheus, without a token, whether the server is ready."""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedReader

from deepfake_tools.operations.checks import Remembered, UnwellError, outcome
from deepfake_tools.operations.model_metadata import ROOT, Metadata, VersionState
from deepfake_tools.torchserve.deadline import DeadlineReader

METRICS = "/metrics"
# A stranger who connects and says nothing.
SILENCE_LIMIT_S = 5.0

Check = Callable[[], str]
"""Returns what is well in one line, or raises ServiceError."""


class Probe:
    """Answers GET /ready and GET /live with 200 or 503, and a line that says why.

    GET /metrics has both as gauges, `clip_deepfake_ready` and `clip_deepfake_live`, 1 or 0: that a
    worker is READY is on none of TorchServe's own metrics. Below /v2 it answers as KServe's v2
    protocol wants it.

    Args:
        host: The address to listen on.
        port: The port; 0 for any free one.
        draining: Raises while the server is being stopped; asked on every request.
        ready: Says whether requests are answered.
        live: Says whether the server's process answers at all.
        versions: Returns what is served.

    Attributes:
        port: The port that it listens on.
    """

    def __init__(
        self,
        host: str,
        port: int,
        draining: Callable[[], None],
        ready: Check,
        live: Check,
        versions: Callable[[], Sequence[VersionState]],
    ) -> None:
        check_live, remembered = Remembered(live), Remembered(ready)

        def check_draining() -> None:
            outcome(draining)

        def check_ready() -> str:
            check_draining()
            return remembered()

        checks: dict[str, Check] = {"/ready": check_ready, "/live": check_live}
        metadata = Metadata(check_ready, check_live, check_draining, Remembered(versions))
        self._http = _Sockets((host, port), _handler(checks, metadata))
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


def _gauges(checks: Mapping[str, Check]) -> str:
    """Returns what the checks say, as Prometheus reads it."""
    lines = []
    for path, check in checks.items():
        name = f"clip_deepfake_{path.removeprefix('/')}"
        try:
            check()
            value = 1
        except UnwellError:
            value = 0
        lines += [f"# HELP {name} Whether GET {path} is answered with 200."]
        lines += [f"# TYPE {name} gauge", f"{name} {value}"]
    return "\n".join(lines)


def _handler(checks: Mapping[str, Check], metadata: Metadata) -> type[BaseHTTPRequestHandler]:
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
            if path == METRICS:
                self._answer(HTTPStatus.OK, _gauges(checks))
            elif path in checks:
                try:
                    self._answer(HTTPStatus.OK, checks[path]())
                except UnwellError as error:
                    self._answer(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
            elif found := metadata.answer(path):
                status, fields = found
                self._answer(status, json.dumps(fields), "application/json")
            else:
                paths = ", ".join([*checks, ROOT])
                self._answer(HTTPStatus.NOT_FOUND, f"ask for {paths} or {METRICS}")

        do_HEAD = do_GET  # noqa: N815

        def _answer(
            self, status: HTTPStatus, text: str, kind: str = "text/plain; charset=utf-8"
        ) -> None:
            body = (text + "\n").encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Cache-Control", "no-store")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Keeps a line a second out of the log."""

    return Handler
