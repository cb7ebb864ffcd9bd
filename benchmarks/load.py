"""The load process: a job in, requests on open connections out, timed and compared.

It costs the measured server little: threads with plain sockets under `http.client`, requests that
are made before the clock runs, and nothing of torch or NumPy in it.
"""

import base64
import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPConnection
from itertools import cycle, islice
from pathlib import Path
from typing import Literal

import msgspec

from benchmarks.jobs import (
    LoadEvent,
    LoadJob,
    LoadResult,
    Logits,
    largest_difference,
)

TIME_LIMIT_S = 120.0
POLL_S = 0.05


@dataclass
class _Log:
    """One client's: when each answer came and how long it took, in seconds."""

    answers: list[tuple[float, float]] = field(default_factory=list)
    largest_difference: float = 0.0


class Load:
    """Clients that ask again and again until they are stopped, or one of them fails."""

    def __init__(self, job: LoadJob) -> None:
        self._job = job
        self._bodies = [_body(Path(image).read_bytes(), job.form) for image in job.images]
        self._logs = [_Log() for _ in range(job.clients)]
        self._changed = threading.Condition()
        self._stopped = False
        self._failure: str | None = None

    def run(self) -> LoadResult:
        """Asks; prints the two events on the way."""
        threads = [
            threading.Thread(target=self._client, args=(number,), daemon=True)
            for number in range(self._job.clients)
        ]
        for thread in threads:
            thread.start()
        time.sleep(self._job.warm_up_s)
        self._await(self._all_answered, None)
        begun, cpu_begun = self._mark("begin")
        self._await(lambda: False, self._job.seconds)
        while not self._answered_since(begun) and self._failure is None:
            time.sleep(POLL_S)
        ended, cpu_ended = self._mark("end")
        self._stopped = True
        for thread in threads:
            thread.join()
        return self._result(begun, ended, cpu_ended - cpu_begun)

    def _client(self, number: int) -> None:
        connection = HTTPConnection("127.0.0.1", self._job.port, timeout=TIME_LIMIT_S)
        log = self._logs[number]
        try:
            for image in islice(cycle(range(len(self._bodies))), number, None):
                if self._stopped:
                    break
                self._ask(connection, log, image)
        except Exception as error:  # whatever it is, there is no answer to count
            self._fail(f"{self._job.path}: {error!r}")
        finally:
            connection.close()

    def _ask(self, connection: HTTPConnection, log: _Log, image: int) -> None:
        sent = time.perf_counter()
        connection.request("POST", self._job.path, self._bodies[image], self._job.headers)
        answer = connection.getresponse()
        body = answer.read()
        came = time.perf_counter()
        if answer.status != 200:
            raise ValueError(f"status {answer.status}: {body[:300]!r}")
        difference = self._compare(tuple(json.loads(body)["logits"]), image)
        log.largest_difference = max(log.largest_difference, difference)
        log.answers.append((came, came - sent))
        if len(log.answers) == 1:
            with self._changed:
                self._changed.notify_all()

    def _compare(self, logits: Logits, image: int) -> float:
        expected, tolerance = self._job.expected[image], self._job.tolerance
        difference = largest_difference(logits, expected)
        if not difference <= tolerance:
            name = Path(self._job.images[image]).name
            raise ValueError(f"{name}: logits {logits}, not {expected} within {tolerance:g}")
        return difference

    def _fail(self, failure: str) -> None:
        with self._changed:
            self._failure = self._failure or failure
            self._stopped = True
            self._changed.notify_all()

    def _all_answered(self) -> bool:
        return all(log.answers for log in self._logs)

    def _answered_since(self, begun: float) -> bool:
        return any(log.answers and log.answers[-1][0] > begun for log in self._logs)

    def _await(self, condition: Callable[[], bool], limit_s: float | None) -> None:
        with self._changed:
            self._changed.wait_for(lambda: condition() or self._failure is not None, limit_s)

    def _mark(self, event: Literal["begin", "end"]) -> tuple[float, float]:
        print(msgspec.json.encode(LoadEvent(event)).decode(), flush=True)
        return time.perf_counter(), time.process_time()

    def _result(self, begun: float, ended: float, cpu_s: float) -> LoadResult:
        answers = [answer for log in self._logs for answer in log.answers]
        inside = [(came, taken) for came, taken in answers if begun < came <= ended]
        earlier = [came for came, _ in answers if came <= begun]
        return LoadResult(
            seconds=ended - begun,
            cpu_s=cpu_s,
            latencies_ms=tuple(1e3 * taken for _, taken in inside),
            answered_s=max((came for came, _ in inside), default=ended)
            - max(earlier, default=begun),
            asked=len(answers),
            largest_difference=max(log.largest_difference for log in self._logs),
            failure=self._failure,
        )


def _body(image: bytes, form: str) -> bytes:
    if form == "bytes":
        return image
    return json.dumps({"image_data": base64.b64encode(image).decode()}).encode()


def main() -> None:
    """Does the job that the command line names."""
    job = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=LoadJob)
    print(msgspec.json.encode(Load(job).run()).decode(), flush=True)


if __name__ == "__main__":
    main()
