"""Swaps under load, and two at once: each request is answered, by the version that it should be."""

import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from deepfake_tools.inspection import ArchiveName, version_order
from deepfake_tools.operations.rollout import RunningServer
from deepfake_tools.operations.service import Service
from deepfake_tools.store import Store, StoreError
from deepfake_tools.torchserve.api import ManagementAPI
from deepfake_tools.torchserve.connection import Purpose, Token
from deepfake_tools.torchserve.local_server import LocalServer
from deepfake_tools.torchserve.tokens import find_key

from tests.drills.commands import MANAGE, command_line
from tests.drills.drill import Finding, Ground, VersionExchange, version_load

CLIENTS = 16
SWAPS = 20
SHORT_SWAPS = 2
BETWEEN = 64
"""Answers between two swaps."""

REFUSAL = "ask again when it has ended"
READY_LIMIT_S = 120.0


@dataclass(frozen=True)
class Switch:
    """A change of the default version; in between either one may answer.

    Attributes:
        version: The default from then on.
        before: When the server was told, as time.monotonic().
        after: When it had done it.
    """

    version: str
    before: float
    after: float


@dataclass(frozen=True)
class SwapReport:
    """What became of the requests during the swaps.

    Attributes:
        swaps: How many.
        sent: Requests.
        failed: Those without an answer.
        wrong: Those that a version answered which was not the default at any time meanwhile.
        versions: Answers by version.
    """

    swaps: int
    sent: int
    failed: Sequence[VersionExchange]
    wrong: Sequence[VersionExchange]
    versions: Counter[str]

    def __str__(self) -> str:
        in_order = sorted(self.versions, key=version_order)
        by_version = ", ".join(f"version {v}: {self.versions[v]}" for v in in_order)
        return (
            f"{self.swaps} swaps: {self.sent} requests sent, {self.sent - len(self.failed)} "
            f"answered, {len(self.failed)} failed, {len(self.wrong)} by the wrong version "
            f"({by_version})"
        )


class TimedManagement(ManagementAPI):
    """A management API that notes when the default version changes.

    Attributes:
        switches: The changes so far.
    """

    def __init__(
        self, address: str, token: Token | None, timeout: float = 60.0, ca: Path | None = None
    ) -> None:
        super().__init__(address, token, timeout, ca)
        self.switches: list[Switch] = []

    def set_default(self, name: str, version: str) -> None:
        """Makes a version the one that answers when none is named."""
        before = time.monotonic()
        super().set_default(name, version)
        self.switches.append(Switch(version, before, time.monotonic()))


def swap_under_load(ground: Ground) -> Finding:
    """Swaps to and fro between two versions, then lets two swaps meet."""
    times = SHORT_SWAPS if ground.short else SWAPS
    image = ground.photographs[0].read_bytes()
    with ground.serving() as server:
        management = TimedManagement(
            server.management_url, find_key(Purpose.MANAGEMENT, server.key_file), READY_LIMIT_S
        )
        deployed = RunningServer(
            management, server.inference(), server.logs, READY_LIMIT_S, ground.say
        )
        service = Service(deployed, Store(ground.store), server.properties)
        with version_load(server, ground.name, image, CLIENTS) as load:
            switches = swap_repeatedly(
                service, management, ground.archives, image, times, lambda: load.wait_for(BETWEEN)
            )
            met = _two_at_once(server, ground)
            load.wait_for(BETWEEN)
        served = server.management().version(ground.name).version
    # What became of the two belongs to no switch that was timed.
    report = judge_swaps([e for e in load.exchanges if e.ended <= switches[-1].after], switches)
    lost = [exchange for exchange in load.exchanges if exchange.failure is not None]
    faults = [f"{len(lost)} requests failed: {lost[0].failure}"] if lost else []
    if report.wrong:
        faults.append(f"{len(report.wrong)} answers by the wrong version")
    codes = [code for code, _ in met]
    if sorted(codes) != [0, StoreError.exit_code] or served != "2":
        faults.append(f"two swaps at once ended with {codes}, and version {served} is served")
    refusal = next((said for code, said in met if code == StoreError.exit_code), "")
    if REFUSAL not in refusal:
        faults.append(f"the swap that was refused said nothing of another one: {refusal!r}")
    figures = (
        str(report),
        f"two swaps to version 2 at once, exit codes {codes[0]} and {codes[1]}: version {served} "
        f"is served; {len(load.exchanges)} requests in all, {len(lost)} failed",
        f"one of the two was told: {refusal}",
    )
    return Finding(figures, tuple(faults))


def swap_repeatedly(
    service: Service,
    management: TimedManagement,
    archives: tuple[Path, Path],
    image: bytes,
    times: int,
    pause: Callable[[], None],
) -> list[Switch]:
    """Swaps to and fro between two versions of a model.

    Args:
        service: The server and its store; its server talks through `management`.
        management: Notes the switches.
        archives: Two versions; the first is the default now.
        image: What a new version is asked about first.
        times: How many swaps.
        pause: Called before the first swap and after each: lets some requests through.

    Returns:
        The changes of the default version, with the first version's beginning.

    Raises:
        ServiceError: A swap failed.
    """
    first = ArchiveName.parse(archives[0].name)
    management.switches = [Switch(first.version, 0.0, 0.0)]
    pause()
    for number in range(times):
        service.swap(archives[(number + 1) % 2], image)
        pause()
    return management.switches


def _two_at_once(server: LocalServer, ground: Ground) -> list[tuple[int, str]]:
    """Starts `manage.py swap` to version 2 twice; returns the exit code and last words of both."""
    words = ("swap", ground.archives[1], "--model-store", ground.store)
    command = command_line(MANAGE, server, *words)
    both = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=READY_LIMIT_S)[1] for process in both]
    lasts = [(text.splitlines() or [""])[-1] for text in said]
    return [(process.returncode, last) for process, last in zip(both, lasts, strict=True)]


def judge_swaps(exchanges: Sequence[VersionExchange], switches: Sequence[Switch]) -> SwapReport:
    """Compares who answered with who should have."""
    ends = [later.after for _, later in pairwise(switches)] + [float("inf")]

    def is_right(exchange: VersionExchange) -> bool:
        return any(
            exchange.answer == switch.version
            and exchange.ended >= switch.before
            and exchange.sent <= end
            for switch, end in zip(switches, ends, strict=True)
        )

    answered = [exchange for exchange in exchanges if exchange.answer is not None]
    return SwapReport(
        swaps=len(switches) - 1,
        sent=len(exchanges),
        failed=[exchange for exchange in exchanges if exchange.answer is None],
        wrong=[exchange for exchange in answered if not is_right(exchange)],
        versions=Counter(str(exchange.answer) for exchange in answered),
    )
