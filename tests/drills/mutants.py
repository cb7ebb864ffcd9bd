"""Thousands of damaged images for a served model: each has a right answer, and the worker lives."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from itertools import cycle
from typing import TypeAlias

from deepfake_tools.text_table import table
from deepfake_tools.torchserve.local_server import LocalServer

from benchmarks.load import Load, prediction
from tests.drills.drill import Finding, Ground
from tests.drills.hostile import HOSTILE, JUDGED, Hostile
from tests.drills.memory import PeakMemory
from tests.drills.mutations import FORMATS, MUTATIONS, Mutant, mutants, originals, widest

COUNT = 6000
SHORT_COUNT = 480
CLIENTS = 8
GROWTH_MB = 75.0
"""By which the peak may exceed that of undamaged images of the same sizes, and what stays in memory
what stayed after those: a tenth of a worker with ViT-B/32 in float32."""

WARM_UP = 400
"""Undamaged images beforehand: by then the worker has met every size of batch."""

VERDICT = "verdict"
UNDAMAGED = "none"
HOSTILE_FORMAT = "hostile"
NO_ANSWER = 0
"""In the place of a status."""

Files: TypeAlias = Mapping[str, Sequence[bytes]]


@dataclass(frozen=True)
class Reply:
    """What came of one mutant.

    Attributes:
        mutant: What was sent.
        status: HTTP's, or `NO_ANSWER`.
        code: `VERDICT`, the error's code, or why there is no answer.
    """

    mutant: Mutant
    status: int
    code: str


def _ask(
    server: LocalServer, name: str, files: Iterable[Mutant], clients: int = CLIENTS
) -> Sequence[Reply]:
    """Returns what came of each file, in any order."""

    def read(mutant: Mutant, status: int, body: bytes) -> Reply:
        return Reply(mutant, status, _code(body))

    asked = ((mutant, mutant.data) for mutant in files)
    with Load(prediction(server, name), asked, clients, read) as load:
        load.join()
    return [
        exchange.answer
        # An exception's name, without its words.
        or Reply(exchange.asked, NO_ANSWER, str(exchange.failure).partition("(")[0])
        for exchange in load.exchanges
    ]


def _code(body: bytes) -> str:
    try:
        answer = json.loads(body)
        return VERDICT if "fake_probability" in answer else str(answer["error"]["code"])
    except (ValueError, TypeError, KeyError):
        return "another shape than ours"


def ask_about_mutants(ground: Ground) -> Finding:
    """Sends damaged images of nine formats, then hostile files, and watches the worker."""
    count = SHORT_COUNT if ground.short else COUNT
    files = originals(ground.photographs)
    chosen = HOSTILE[::5] if ground.short else HOSTILE
    with ground.serving() as server:
        worker = _worker(server, ground.name)
        ordinary, warm = PeakMemory(worker), _warm_up(server, ground.name, files)
        ordinary.look()
        ground.say(f"{count} damaged images ...")
        memory, begun = PeakMemory(worker), time.monotonic()
        replies = _ask(server, ground.name, mutants(files, count))
        seconds = time.monotonic() - begun
        memory.look()
        ground.say(f"{len(chosen)} hostile files ...")
        hostile = _ask(server, ground.name, _hostile(chosen, files))
        same_worker = _worker(server, ground.name) == worker
    faults = [
        *_faults(replies, count),
        *_faults(hostile, 2 * len(chosen)),
        *_wrong_outcomes(hostile, chosen),
        *growth_faults(ordinary, memory),
    ]
    if any(reply.code != VERDICT for reply in warm):
        faults.append("an undamaged image got no verdict")
    if not same_worker:
        faults.append("the worker was started anew")
    figures = [
        f"{len(replies)} damaged images, {len(replies) / seconds:.0f} a second",
        f"statuses: {_counts(str(reply.status) for reply in replies)}",
        f"answers: {_counts(reply.code for reply in replies)}",
        f"the worker's peak: {ordinary.peak_mb:.0f} MB with undamaged images of these sizes, "
        f"{memory.peak_mb:.0f} MB with damaged ones",
        f"what stays: {memory.before_mb:.0f} MB before the damaged ones, {memory.now_mb:.0f} MB "
        "after",
        f"{len(chosen)} hostile files among as many photographs: "
        f"{_counts(f'{reply.status} {reply.code}' for reply in hostile)}",
        *_verdicts_text(replies).splitlines(),
    ]
    return Finding(tuple(figures), tuple(faults))


def growth_faults(ordinary: PeakMemory, damaged: PeakMemory) -> list[str]:
    """Says whether damaged images took more memory than undamaged ones, or kept it."""
    return [
        f"the worker's {what} grew from {before:.0f} to {after:.0f} MB, by over {GROWTH_MB:g} MB"
        for what, before, after in (
            ("peak", ordinary.peak_mb, damaged.peak_mb),
            ("memory", damaged.before_mb, damaged.now_mb),
        )
        if after > before + GROWTH_MB
    ]


def _warm_up(server: LocalServer, name: str, files: Files) -> Sequence[Reply]:
    """Asks about undamaged images: the originals together, the largest sizes one at a time."""
    wide = [Mutant(kind, UNDAMAGED, data) for kind, data in widest().items()]
    first = _ask(server, name, wide, clients=1)
    whole = [Mutant(kind, UNDAMAGED, data) for kind, some in files.items() for data in some]
    return [*first, *_ask(server, name, (whole * WARM_UP)[:WARM_UP])]


def _hostile(chosen: Iterable[Hostile], files: Files) -> Iterator[Mutant]:
    """Yields hostile files, each followed by an undamaged one, which shares its batch perhaps."""
    for one, (name, some) in zip(chosen, cycle(files.items()), strict=False):
        yield Mutant(HOSTILE_FORMAT, one.name, one.make())
        yield Mutant(name, UNDAMAGED, some[0])


def _wrong_outcomes(replies: Iterable[Reply], chosen: Iterable[Hostile]) -> list[str]:
    """Says of which hostile file, or undamaged one beside it, another outcome is right."""
    right = {one.name: one.outcomes for one in chosen} | {UNDAMAGED: frozenset({JUDGED})}
    return [
        f"{reply.mutant.format}, {reply.mutant.mutation}: {reply.status} {reply.code}"
        for reply in replies
        if (JUDGED if reply.code == VERDICT else reply.code) not in right[reply.mutant.mutation]
    ]


def _worker(server: LocalServer, name: str) -> int:
    (worker,) = server.management().version(name).workers
    return worker.pid


def _faults(replies: Sequence[Reply], count: int) -> list[str]:
    bad = [
        reply
        for reply in replies
        if reply.status == NO_ANSWER or reply.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    ]
    strange = [
        reply for reply in replies if (reply.status == HTTPStatus.OK) != (reply.code == VERDICT)
    ]
    faults = [f"{len(replies)} of {count} were asked about"] if len(replies) < count else []
    for what, some in (("5xx or no answer", bad), ("another status than its answer's", strange)):
        if some:
            first = some[0]
            faults.append(
                f"{len(some)} with {what}: {first.status} {first.code} for {first.mutant.format}, "
                f"{first.mutant.mutation}"
            )
    return faults


def _counts(words: Iterable[str]) -> str:
    return ", ".join(f"{number} {word}" for word, number in Counter(words).most_common())


def _verdicts_text(replies: Sequence[Reply]) -> str:
    """How many of each kind were images still."""
    asked = Counter((reply.mutant.format, reply.mutant.mutation) for reply in replies)
    judged = Counter(
        (reply.mutant.format, reply.mutant.mutation) for reply in replies if reply.code == VERDICT
    )
    rows = [
        (one.name, *(f"{judged[one.name, how]}/{asked[one.name, how]}" for how in MUTATIONS))
        for one in FORMATS
    ]
    return table([("verdicts of", *MUTATIONS), *rows])
