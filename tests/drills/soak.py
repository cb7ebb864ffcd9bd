"""Full load for a long time in, whether memory and file descriptors stay as they are out."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import median

import psutil

from tests.drills.drill import Finding, Ground, VersionExchange, version_load

CLIENTS = 16
SECONDS = 600.0
SHORT_SECONDS = 6.0
SAMPLE_S = 2.0

WORKER_GROWTH = 0.03
JAVA_GROWTH = 0.10
"""Java's collector uses what heap it may have, up to the quarter of memory that is its limit."""

JAVA_BEGINS_WITH = 1 / 64
"""Of the machine's memory: the heap that Java fills before it collects anything, so that growth
below it is no leak (HotSpot Virtual Machine Garbage Collection Tuning Guide, "Ergonomics")."""

MORE_FILES = 8
"""A connection that is being closed, a log that is being turned over."""


@dataclass(frozen=True)
class Usage:
    """Of one process at one moment.

    Attributes:
        memory_mb: Resident, in 10**6 bytes.
        files: Open file descriptors.
    """

    memory_mb: float
    files: int


@dataclass(frozen=True)
class Trend:
    """Of one process over the run, by medians of its quarters.

    Attributes:
        early: Of the second quarter; in the first one caches fill.
        late: Of the last quarter.
    """

    early: Usage
    late: Usage

    @property
    def growth(self) -> float:
        """By what share the memory has grown."""
        return self.late.memory_mb / self.early.memory_mb - 1

    @property
    def more_files(self) -> int:
        """How many more files are open."""
        return self.late.files - self.early.files

    def __str__(self) -> str:
        return (
            f"{self.early.memory_mb:.0f} MB in the second quarter, {self.late.memory_mb:.0f} MB in "
            f"the last ({self.growth:+.1%}), {self.early.files} and {self.late.files} open files"
        )


def soak(ground: Ground) -> Finding:
    """Keeps a server busy, and watches its worker and Java."""
    seconds = SHORT_SECONDS if ground.short else SECONDS
    image = ground.photographs[0].read_bytes()
    with ground.serving() as server:
        (worker,) = server.management().version(ground.name).workers
        processes = [
            psutil.Process(pid) for pid in (worker.pid, int(server.pid_file.read_text("ascii")))
        ]
        usages: list[list[Usage]] = []
        # Whose process is gone needs no watching any more; what becomes of the requests is told.
        with (
            suppress(psutil.NoSuchProcess),
            version_load(server, ground.name, image, CLIENTS) as load,
        ):
            begun = said = time.monotonic()
            while time.monotonic() < begun + seconds:
                time.sleep(min(SAMPLE_S, seconds / 8))
                usages.append([_usage(process) for process in processes])
                if time.monotonic() - said > 60:
                    said = time.monotonic()
                    ground.say(f"{said - begun:.0f} s: {len(load.exchanges)} requests")
        seconds = time.monotonic() - begun
        pids = {worker.pid for worker in server.management().version(ground.name).workers}
    trends = [trend(column) for column in zip(*usages, strict=True)] if len(usages) > 3 else []
    return finding(seconds, load.exchanges, trends, same_worker=pids == {worker.pid})


def finding(
    seconds: float,
    exchanges: Sequence[VersionExchange],
    trends: Sequence[Trend],
    *,
    same_worker: bool,
) -> Finding:
    """Judges a run.

    Args:
        seconds: How long it was.
        exchanges: Every request.
        trends: Of the worker and of Java; none where one was gone too soon.
        same_worker: Whether it is the one from the beginning.
    """
    failed = [exchange for exchange in exchanges if exchange.failure is not None]
    names, bounds = ("worker", "Java"), (WORKER_GROWTH, JAVA_GROWTH)
    free_mb = (0.0, JAVA_BEGINS_WITH * psutil.virtual_memory().total / 1e6)
    faults = [f"{len(failed)} requests failed: {failed[0].failure}"] if failed else []
    if not same_worker:
        faults.append("the worker was started anew")
    if not trends:
        faults.append("a process was gone before there was anything to compare")
    for name, found, bound, free in zip(names, trends, bounds, free_mb, strict=False):
        if found.growth > bound and found.late.memory_mb > free:
            faults.append(f"{name}'s memory has grown by {found.growth:.1%}, over {bound:.0%}")
        if found.more_files > MORE_FILES:
            faults.append(f"{name} has {found.more_files} more files open")
    figures = [
        f"{seconds:.0f} s, {CLIENTS} clients: {len(exchanges)} requests, {len(failed)} failed, "
        f"{len(exchanges) / seconds:.0f} a second",
        *(f"{name}: {found}" for name, found in zip(names, trends, strict=False)),
    ]
    return Finding(tuple(figures), tuple(faults))


def trend(usages: Sequence[Usage]) -> Trend:
    """Compares the second with the last quarter of a run.

    Args:
        usages: At least four, in the order of time.
    """
    quarter = len(usages) // 4
    return Trend(_middle(usages[quarter : 2 * quarter]), _middle(usages[-quarter:]))


def _middle(usages: Sequence[Usage]) -> Usage:
    return Usage(
        median(usage.memory_mb for usage in usages), int(median(usage.files for usage in usages))
    )


def _usage(process: psutil.Process) -> Usage:
    return Usage(process.memory_info().rss / 1e6, process.num_fds())
