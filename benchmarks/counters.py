"""TorchServe's metrics page in, where requests have spent their time out."""

import re
import urllib.request
from dataclasses import dataclass

COUNTER = re.compile(r'^(ts_\w+)\{[^}]*model_name="([^"]*)"[^}]*\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True)
class Counters:
    """Sums over all requests of a model so far.

    Attributes:
        requests: How many.
        queue_us: Microseconds in the queue and the batch window.
        server_us: Microseconds from arrival to answer.
    """

    requests: float
    queue_us: float
    server_us: float


def read_counters(metrics_url: str, model: str) -> Counters:
    """Asks the metrics port, which wants no token."""
    with urllib.request.urlopen(f"{metrics_url}/metrics", timeout=10) as answer:
        return parse_counters(answer.read().decode(), model)


def parse_counters(page: str, model: str) -> Counters:
    """Reads the page; what is not there yet counts as 0."""
    found = {name: float(value) for name, of, value in COUNTER.findall(page) if of == model}
    return Counters(
        requests=found.get("ts_inference_requests_total", 0.0),
        queue_us=found.get("ts_queue_latency_microseconds", 0.0),
        server_us=found.get("ts_inference_latency_microseconds", 0.0),
    )


@dataclass(frozen=True)
class ServerTimes:
    """Means over the requests between two readings, in milliseconds.

    Attributes:
        queue_ms: In the queue and the batch window.
        server_ms: From arrival to answer.
    """

    queue_ms: float
    server_ms: float


def between(before: Counters, after: Counters) -> ServerTimes | None:
    """Returns the means of the time between two readings; None when nothing was asked in it."""
    requests = after.requests - before.requests
    if requests <= 0:
        return None
    return ServerTimes(
        queue_ms=(after.queue_us - before.queue_us) / requests / 1e3,
        server_ms=(after.server_us - before.server_us) / requests / 1e3,
    )
