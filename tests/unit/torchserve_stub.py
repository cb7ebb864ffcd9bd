"""A stand-in for TorchServe on a real socket: requests are kept, a function answers them."""

import json
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

REFUSED = "Token Authorization failed. Token either incorrect, expired, or not provided correctly"
SERVED = "openai--clip-vit-base-patch32"
NO_WORKER = 'Model "m" has no worker to serve inference request. Please use scale workers API'


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """An answer; `missing` is how many bytes it announces and then never sends."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    missing: int = 0


HANG_UP = Reply()  # the connection is closed without an answer
NO_ANSWER = Reply()  # the connection stays open without an answer


def json_reply(value: object, status: int = 200) -> Reply:
    return Reply(status, json.dumps(value).encode())


def torchserve_error(status: int, kind: str, message: str) -> Reply:
    return json_reply({"code": status, "type": kind, "message": message}, status)


def detector_error(status: int, code: str, message: str) -> Reply:
    return json_reply({"error": {"code": code, "message": message}}, status)


def verdict(fake_probability: float = 0.8123, head: str = "untrained") -> dict[str, object]:
    fake = fake_probability >= 0.5
    return {
        "label": "FAKE" if fake else "REAL",
        "prediction": int(fake),
        "confidence": fake_probability if fake else 1 - fake_probability,
        "fake_probability": fake_probability,
        "logits": [-0.7, 0.76],
        "detector": {
            "model": "openai/clip-vit-base-patch32",
            "commit": None,
            "version": "1",
            "head": head,
            "precision": "float32",
            "engine": "torch cpu",
            "threshold": 0.5,
        },
    }


def explanation(side: int = 7, **changed: object) -> dict[str, object]:
    """What is added to a verdict: one part towards FAKE, one towards REAL, the others nothing."""
    grid = [[0.0] * side for _ in range(side)]
    grid[0][0], grid[-1][-1] = 2.0, -1.0
    made_of = {"method": "decomposition", "grid": grid, "rest": 0.25, "margin": 1.25, "passes": 1}
    return {"explanation": made_of | changed}


def images_of(request: Request) -> list[bytes]:
    """The images of a request, be it one as it is or several as the parts of a form."""
    content_type = request.headers["Content-Type"]
    if not content_type.startswith("multipart/form-data"):
        return [request.body]
    boundary = content_type.partition("boundary=")[2].encode()
    parts = request.body.split(b"--" + boundary)[1:-1]
    return [part.partition(b"\r\n\r\n")[2][:-2] for part in parts]


def answer_each(request: Request, judge: Callable[[bytes], Reply]) -> Reply:
    """Puts the answers on a request's images together as the detector does."""
    replies = [judge(image) for image in images_of(request)]
    # What is no answer on one image is none on all of them.
    whole = [reply for reply in replies if not reply.body or b'"type"' in reply.body]
    if whole or len(replies) == 1:
        return (whole or replies)[0]
    entries = [
        json.loads(reply.body) | ({} if reply.status == 200 else {"status": reply.status})
        for reply in replies
    ]
    found = {reply.status for reply in replies}
    return json_reply(entries, 200 if 200 in found else min(found))


def description(name: str, version: str = "1", *statuses: str) -> dict[str, object]:
    """One version as TorchServe describes it, with a worker for each status."""
    return {
        "modelName": name,
        "modelVersion": version,
        "modelUrl": f"{name}@{version}.mar",
        "minWorkers": 1,
        "maxWorkers": 2,
        "batchSize": 8,
        "workers": [
            {"id": str(9000 + index), "status": status, "pid": 100 + index, "gpu": False}
            for index, status in enumerate(statuses)
        ],
        "jobQueueStatus": {"remainingCapacity": 97, "pendingRequests": 3},
    }


@dataclass
class Served:
    """Answers as TorchServe does: a model, and what it says to an image's bytes."""

    replies: Mapping[bytes, Reply] = field(default_factory=dict)
    head: str = "head.pth"
    worker: str = "READY"
    name: str = SERVED
    versions: tuple[str, ...] = ("1",)
    others: tuple[str, ...] = ()
    explains: bool = False

    def __call__(self, request: Request) -> Reply:
        asked = request.path.startswith(("/predictions/", "/explanations/"))
        token = "inference" if asked else "management"
        if request.headers.get("Authorization") != f"Bearer {token}-token":
            return torchserve_error(400, "InvalidKeyException", REFUSED)
        if request.path.startswith("/models?"):
            names = (self.name, *self.others)
            listed = [{"modelName": name, "modelUrl": f"{name}@1.mar"} for name in names]
            return json_reply({"models": listed})
        _, _, name, *version = request.path.split("/")
        if name != self.name:
            return torchserve_error(404, "ModelNotFoundException", "Model not found: x")
        if version and version[0] not in (*self.versions, "all"):
            return torchserve_error(404, "ModelVersionNotFoundException", "no such version")
        if token == "management":
            found = self.versions if version == ["all"] else [*version, *self.versions][:1]
            return json_reply([description(name, one, self.worker) for one in found])
        judge = self.explain if request.path.startswith("/explanations/") else self.judge
        return answer_each(request, judge)

    def explain(self, image: bytes) -> Reply:
        if not self.explains:
            return detector_error(501, "not_implemented", "explanations are not offered")
        judged = self.judge(image)
        if judged.status != 200:
            return judged
        return json_reply(json.loads(judged.body) | explanation())

    def judge(self, image: bytes) -> Reply:
        return self.replies.get(image, json_reply(verdict(0.8123, self.head)))


class _Sockets(ThreadingHTTPServer):
    request_queue_size = 64
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Says nothing of clients that hang up, as killed ones do."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class StubServer:
    """Answers every request by `answer`, and keeps it in `requests` unless told not to."""

    def __init__(self, answer: Callable[[Request], Reply], *, keep: bool = True) -> None:
        self.keep = keep
        self.requests: list[Request] = []
        self.released = threading.Event()
        self._http = _Sockets(("127.0.0.1", 0), _handler(self, answer))
        self.address = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def stop_listening(self) -> None:
        """Refuses new connections from now on; those that there are stay."""
        self._http.socket.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.released.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def _handler(stub: StubServer, answer: Callable[[Request], Reply]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # connections are used again, as TorchServe does
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            request = Request(self.command, self.path, dict(self.headers), body)
            if stub.keep:
                stub.requests.append(request)
            reply = answer(request)
            if reply is NO_ANSWER:
                stub.released.wait(30)
                self.close_connection = True
            elif reply is HANG_UP:
                self.close_connection = True
            else:
                self.send(reply)

        do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

        def send(self, reply: Reply) -> None:
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body) + reply.missing))
            self.end_headers()
            self.wfile.write(reply.body)
            if reply.missing:
                self.wfile.flush()
                stub.released.wait(30)
                self.close_connection = True

        def log_message(self, *args: object) -> None:
            pass

    return Handler
