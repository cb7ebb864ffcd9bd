"""Image files that are made to hurt, through a served model: time, memory and answer of each."""

import json
import time
from collections.abc import Iterator

from tests.drills.hostile import HOSTILE, JUDGED, Hostile
from tests.drills.memory import PeakMemory
from tests.drills.site import NOTHING, NewLines, Row, Site
from tests.drills.token_cases import tokens

SECONDS = 20.0
"""Of a request, its transport included, on a machine that may be busy."""

COPIES = 4
"""Of a request's body that a worker may hold at once, from its socket to the decoder."""


def image_rows(site: Site, name: str, *, short: bool) -> Iterator[Row]:
    """Asks about each file alone.

    Args:
        site: The server.
        name: The served name.
        short: Whether some of them will do.
    """
    (worker,) = site.server.management().version(name).workers
    for hostile in HOSTILE[::5] if short else HOSTILE:
        yield _row(site, name, worker.pid, hostile)


def _row(site: Site, name: str, pid: int, hostile: Hostile) -> Row:
    data = hostile.make()
    url, token = f"{site.server.inference_url}/predictions/{name}", tokens(site.server)["inference"]
    memory, lines, begun = PeakMemory(pid), NewLines(site.server.logs), time.monotonic()
    answer = site.ask("POST", url, token, data=data)
    seconds = time.monotonic() - begun
    memory.look()
    grown_mb = memory.peak_mb - memory.before_mb
    body, logged = json.loads(answer.text), lines.first("clip_deepfake batch")
    code = body["error"]["code"] if "error" in body else JUDGED
    (still,) = site.server.management().version(name).workers
    return Row(
        hostile.name,
        f"POST /predictions, {len(data) / 1e6:.1f} MB",
        f"{answer.status_code} {code}, {seconds:.1f} s, {grown_mb:+.0f} MB",
        logged,
        code in hostile.outcomes
        and (answer.status_code == 200) == (code == JUDGED)
        and answer.status_code < 500
        and seconds < SECONDS
        and grown_mb < hostile.growth_mb * 1.05 + COPIES * len(data) / 1e6
        and still.pid == pid
        and logged != NOTHING,
    )
