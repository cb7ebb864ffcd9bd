"""Medians and stage times in, where a served request's time goes out.

Wait and transport are TorchServe's own counters against the clients' clocks. What happens inside
the worker is measured in one process, each stage alone, on a batch about as large as the worker
has at once; where the worker overlaps stages, their sum is more than a request's share.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.cells import Figures, Place, Way
from benchmarks.jobs import Stages


@dataclass(frozen=True)
class RequestTime:
    """A mean request, in milliseconds.

    Attributes:
        contender: Who answered.
        clients: How many asked at a time.
        at_once: Requests that the worker has in hand on average, by Little's law.
        batch: Images in the batch whose stages are listed.
        total_ms: By the client's clock.
        wait_ms: In TorchServe's queue and batch window.
        transport_ms: Between client and TorchServe.
        worker_ms: From leaving the queue to the answer.
        decode_ms: Of the batch, in one process; likewise the next four.
        align_ms: See there.
        resize_ms: See there.
        engine_ms: See there.
        answer_ms: See there.
    """

    contender: str
    clients: int
    at_once: float
    batch: int
    total_ms: float
    wait_ms: float
    transport_ms: float
    worker_ms: float
    decode_ms: float
    align_ms: float
    resize_ms: float
    engine_ms: float
    answer_ms: float

    @property
    def rest_ms(self) -> float:
        """The worker's time beyond its stages: the way to it and back, and its own batching."""
        prepared_ms = self.decode_ms + self.align_ms + self.resize_ms
        return self.worker_ms - (prepared_ms + self.engine_ms + self.answer_ms)


def profile(
    medians: Mapping[Place, Figures], stages: Mapping[str, Sequence[Stages]]
) -> Iterator[RequestTime]:
    """Yields a line for each contender with stages and each number of clients."""
    for place, figures in medians.items():
        by_size = {one.size: one for one in stages.get(place.contender, ())}
        if place.way is not Way.SERVED or not by_size:
            continue
        if figures.queue_ms is None or figures.server_ms is None:
            continue
        worker_ms = figures.server_ms - figures.queue_ms
        at_once = figures.images_per_s * worker_ms / 1e3
        batch = by_size[min(by_size, key=lambda size: abs(size - at_once))]
        yield RequestTime(
            contender=place.contender,
            clients=place.size,
            at_once=at_once,
            batch=batch.size,
            total_ms=figures.mean_ms,
            wait_ms=figures.queue_ms,
            transport_ms=figures.mean_ms - figures.server_ms,
            worker_ms=worker_ms,
            decode_ms=batch.decode_ms,
            align_ms=batch.align_ms,
            resize_ms=batch.resize_ms,
            engine_ms=batch.engine_ms,
            answer_ms=batch.answer_ms,
        )
