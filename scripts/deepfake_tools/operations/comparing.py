"""Two versions of a served model and some images in, a Comparison out."""

from collections.abc import Callable, Iterable, Sequence
from itertools import cycle, islice
from typing import TypeAlias

from deepfake_tools.client.concurrency import Throttle
from deepfake_tools.client.payloads import PendingImage
from deepfake_tools.client.records import Record
from deepfake_tools.client.run import Target, make_asker
from deepfake_tools.errors import ServiceError
from deepfake_tools.operations.comparison import CheckError, Comparison, Limits, Pair

Ask: TypeAlias = Callable[[str], Record]
"""Takes an image's path, returns what became of it."""

WARM_UP = 3
# So many that the 95th percentile is not one image's.
TIMINGS = 100


def version_asker(target: Target, version: str) -> Ask:
    """Returns what asks one version about an image, as insistently as the client does.

    Raises:
        ServiceError: When asking: every later request would fail in the same way.
    """
    throttle = Throttle(1, target.retry_policy.attempt_seconds)
    asker = make_asker(target, throttle, version=version)

    def ask(path: str) -> Record:
        throttle.enter()
        answered = 0
        try:
            (record,), answered = asker.ask([PendingImage(0, path)])
        finally:
            throttle.leave(1, answered)
        return record

    return ask


def compare(
    old: Ask, new: Ask, paths: Sequence[str], limits: Limits, timings: int = TIMINGS
) -> Comparison:
    """Asks two versions about every image, one request at a time, in turns.

    Each pair of requests meets the same machine, and who is first changes with every image. Few
    images are asked about several times, for the latencies. A new version that looks too slow is
    measured once more, since a busy machine can make it so; the better measurement counts.

    Args:
        old: Asks the version that answers now.
        new: Asks the one that is to take its place.
        paths: The images.
        limits: What the new one is measured by.
        timings: Fewest latencies for each.

    Raises:
        CheckError: The new version cannot be asked at all.
        ServiceError: The old one cannot be.
    """

    def ask_new(path: str) -> Record:
        try:
            return new(path)
        except ServiceError as error:
            raise CheckError(f"the new version is refused: it does not answer: {error}") from error

    for path in islice(cycle(paths), WARM_UP):
        old(path)
        ask_new(path)
    pairs = _ask_both(old, ask_new, paths)
    rest = islice(cycle(paths), max(timings - len(paths), 0))
    found = _comparison(pairs, [*pairs, *_ask_both(old, ask_new, rest)])
    if found.slowdown >= limits.max_slowdown:
        again = _ask_both(old, ask_new, islice(cycle(paths), timings))
        found = min(found, _comparison(pairs, again), key=lambda one: one.slowdown)
    return found


def _ask_both(old: Ask, new: Ask, paths: Iterable[str]) -> list[Pair]:
    pairs = []
    for number, path in enumerate(paths):
        if number % 2:
            second = new(path)
            pairs.append(Pair(path, old(path), second))
        else:
            pairs.append(Pair(path, old(path), new(path)))
    return pairs


def _comparison(pairs: Sequence[Pair], timed: Sequence[Pair]) -> Comparison:
    return Comparison(
        pairs,
        [pair.old.seconds for pair in timed if pair.old.error is None],
        [pair.new.seconds for pair in timed if pair.new.error is None],
    )
