"""Two archives and a server under load in, swaps to and fro out, and which answers were wrong."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from deepfake_tools.inspection import ArchiveName, version_order
from deepfake_tools.operations.service import Service
from deepfake_tools.torchserve.api import ManagementAPI
from deepfake_tools.torchserve.connection import Token

from tests.drills.load import Exchange


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
    failed: Sequence[Exchange]
    wrong: Sequence[Exchange]
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


def judge_swaps(exchanges: Sequence[Exchange], switches: Sequence[Switch]) -> SwapReport:
    """Compares who answered with who should have."""
    ends = [later.after for _, later in pairwise(switches)] + [float("inf")]

    def is_right(exchange: Exchange) -> bool:
        return any(
            exchange.version == switch.version
            and exchange.ended >= switch.before
            and exchange.sent <= end
            for switch, end in zip(switches, ends, strict=True)
        )

    answered = [exchange for exchange in exchanges if exchange.version is not None]
    return SwapReport(
        swaps=len(switches) - 1,
        sent=len(exchanges),
        failed=[exchange for exchange in exchanges if exchange.version is None],
        wrong=[exchange for exchange in answered if not is_right(exchange)],
        versions=Counter(str(exchange.version) for exchange in answered),
    )
