"""A served model in, constant load on it and what became of every request out."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from deepfake_tools.errors import ServiceError
from deepfake_tools.torchserve.api import InferenceAPI

POLL_S = 0.01
# After a refusal: a client that asks again at once would measure nothing but itself.
REST_S = 0.05


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request.

    Attributes:
        sent: When its sending began, as time.monotonic().
        ended: When its answer was there, or its failure.
        version: Which version answered; None when none did.
        failure: Why there is no answer, in one line; None when there is one.
    """

    sent: float
    ended: float
    version: str | None
    failure: str | None = None


class Load:
    """Clients that ask without pause and never ask again about what failed.

    Example:
        with Load(server.inference, name, image, clients=16) as load:
            ...
        print(len(load.exchanges), len(load.failures))

    Args:
        connect: Returns an inference API; each client has its own.
        name: The served name.
        image: What they ask about.
        clients: How many.
        may_send: Asked before each request, as a load balancer asks for readiness; the clients
            wait while it says False.

    Attributes:
        exchanges: Every request so far, in the order of their ends.
    """

    def __init__(
        self,
        connect: Callable[[], InferenceAPI],
        name: str,
        image: bytes,
        clients: int,
        may_send: Callable[[], bool] = lambda: True,
    ) -> None:
        self._name = name
        self._image = image
        self._may_send = may_send
        self._stopped = threading.Event()
        self.exchanges: list[Exchange] = []
        self._threads = [
            threading.Thread(target=self._ask, args=(connect(),), daemon=True)
            for _ in range(clients)
        ]

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
    def failures(self) -> list[Exchange]:
        """The requests without an answer."""
        return [exchange for exchange in self.exchanges if exchange.failure is not None]

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

    def stop(self) -> None:
        """Ends the load when every request has its answer or its failure."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _answered(self) -> int:
        return len(self.exchanges) - len(self.failures)

    def _ask(self, api: InferenceAPI) -> None:
        while not self._stopped.is_set():
            if not self._may_send():
                self._stopped.wait(POLL_S)
                continue
            sent = time.monotonic()
            try:
                version = api.predict(self._name, self._image).detector.version
            except ServiceError as error:
                self.exchanges.append(Exchange(sent, time.monotonic(), None, str(error)))
                self._stopped.wait(REST_S)
            else:
                self.exchanges.append(Exchange(sent, time.monotonic(), version))
