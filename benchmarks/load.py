"""The load generator: clients that ask a server on this machine without pause, and their exchanges.

It costs the measured server little: threads with plain sockets under `http.client`, bodies that are
made before the clock runs, and nothing of torch or NumPy in it.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from types import TracebackType
from typing import Generic, Self, TypeVar
from urllib.parse import urlsplit

from deepfake_tools.torchserve.connection import Purpose
from deepfake_tools.torchserve.local_server import LocalServer
from deepfake_tools.torchserve.tokens import find_key

TIME_LIMIT_S = 120.0
POLL_S = 0.01
# After a failure: a client that asks again at once would measure nothing but itself.
REST_S = 0.05

AskedT = TypeVar("AskedT")
AnswerT = TypeVar("AnswerT")


@dataclass(frozen=True)
class RequestTemplate:
    """What all requests of a load have in common.

    Attributes:
        port: On 127.0.0.1.
        path: Of the URL.
        headers: Of each request.
    """

    port: int
    path: str
    headers: dict[str, str]


def prediction(server: LocalServer, name: str, version: str | None = None) -> RequestTemplate:
    """Returns the request for a verdict on an image, whose bytes are the body.

    Args:
        server: A TorchServe of this machine.
        name: The served name.
        version: None for the default.
    """
    token = find_key(Purpose.INFERENCE, server.key_file)
    return RequestTemplate(
        port=urlsplit(server.inference_url).port or 0,
        path=f"/predictions/{name}" + (f"/{version}" if version else ""),
        headers={
            "Authorization": f"Bearer {token.value if token else ''}",
            "Content-Type": "application/octet-stream",
        },
    )


@dataclass(frozen=True, slots=True)
class Exchange(Generic[AskedT, AnswerT]):
    """One request.

    Attributes:
        sent: When its sending began, as time.monotonic().
        ended: When its answer was there, or its failure.
        asked: What it was about; None where that does not matter.
        answer: What was read from its answer; None when there was none.
        failure: Why there is no answer, in one line; None when there is one.
    """

    sent: float
    ended: float
    asked: AskedT
    answer: AnswerT | None
    failure: str | None = None


class Load(Generic[AskedT, AnswerT]):
    """Clients with a connection each, which never ask again about what failed.

    Example:
        with Load(prediction(server, name), repeat((None, image)), 16, read_version) as load:
            load.wait_for(64)
        print(len(load.exchanges), len(load.failures))

    Args:
        template: Of each request.
        bodies: What to ask about, in turn, each with its body; the clients share it, and end with
            it.
        clients: How many.
        read: Given what was asked, status and body of an answer; what it returns is kept. What it
            raises makes a failure of it.
        may_send: AskedT before each request, as a load balancer asks for readiness; the clients
            wait while it says False.
        until_failure: Whether the first failure ends the load.

    Attributes:
        exchanges: Every request so far, in the order of their ends.
    """

    def __init__(
        self,
        template: RequestTemplate,
        bodies: Iterable[tuple[AskedT, bytes]],
        clients: int,
        read: Callable[[AskedT, int, bytes], AnswerT],
        *,
        may_send: Callable[[], bool] = lambda: True,
        until_failure: bool = False,
    ) -> None:
        self._template = template
        self._bodies = iter(bodies)
        self._taking = threading.Lock()
        self._read = read
        self._may_send = may_send
        self._until_failure = until_failure
        self._stopped = threading.Event()
        self._met = 0
        self.exchanges: list[Exchange[AskedT, AnswerT]] = []
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(clients)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def failures(self) -> list[Exchange[AskedT, AnswerT]]:
        """The requests without an answer."""
        return [exchange for exchange in self.exchanges if exchange.failure is not None]

    @property
    def all_met(self) -> bool:
        """Whether each client has had an answer, or a failure."""
        return self._met == len(self._threads)

    def wait_for(self, answers: int, limit_s: float = 60.0) -> None:
        """Waits for so many more answers.

        Raises:
            TimeoutError: They did not come; with the latest failure.
        """
        deadline = time.monotonic() + limit_s
        goal = self._answered() + answers
        while self._answered() < goal:
            if time.monotonic() > deadline:
                why = self.failures[-1].failure if self.failures else "no failure either"
                raise TimeoutError(f"{goal - self._answered()} answers are missing: {why}")
            time.sleep(POLL_S)

    def wait(self, seconds: float) -> None:
        """Waits, or until a failure has ended the load."""
        self._stopped.wait(seconds)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Waits for a condition, or until a failure has ended the load."""
        while not condition() and not self._stopped.wait(POLL_S):
            pass

    def join(self) -> None:
        """Waits until everything has been asked about."""
        for thread in self._threads:
            thread.join()

    def stop(self) -> None:
        """Ends the load when every request has its answer or its failure."""
        self._stopped.set()
        self.join()

    def _answered(self) -> int:
        return len(self.exchanges) - len(self.failures)

    def _ask(self) -> None:
        connection = HTTPConnection("127.0.0.1", self._template.port, timeout=TIME_LIMIT_S)
        for number, (asked, body) in enumerate(self._taken()):
            exchange = self._exchange(connection, asked, body)
            self.exchanges.append(exchange)
            if number == 0:
                with self._taking:
                    self._met += 1
            if exchange.failure is not None:
                connection.close()
                if self._until_failure:
                    self._stopped.set()
                self._stopped.wait(REST_S)
        connection.close()

    def _taken(self) -> Iterator[tuple[AskedT, bytes]]:
        while not self._stopped.is_set():
            if not self._may_send():
                self._stopped.wait(POLL_S)
                continue
            with self._taking:
                taken = next(self._bodies, None)
            if taken is None:
                return
            yield taken

    def _exchange(
        self, connection: HTTPConnection, asked: AskedT, body: bytes
    ) -> Exchange[AskedT, AnswerT]:
        sent = time.monotonic()
        try:
            connection.request("POST", self._template.path, body, self._template.headers)
            response = connection.getresponse()
            content = response.read()
            ended = time.monotonic()
            answer = self._read(asked, response.status, content)
        except Exception as error:  # whatever it is, there is no answer to count
            return Exchange(sent, time.monotonic(), asked, None, repr(error))
        return Exchange(sent, ended, asked, answer)
