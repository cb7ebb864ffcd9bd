"""A run of bulk scoring, from its blocks to their parts; how far it is, and how it ends."""

import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from queue import Empty, Queue
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext

from deepfake_tools.bulk.cluster import ActorPool, lost_nodes
from deepfake_tools.bulk.plan import ScoringPlan
from deepfake_tools.bulk.scorer import Job, ScoredBlock, ScoringActor
from deepfake_tools.cli import say
from deepfake_tools.errors import WorkerFailedError, one_line
from deepfake_tools.interrupts import Interruption
from deepfake_tools.progress import Progress

LOOK_UP_SECONDS = 0.2
NODES_SECONDS = 2.0

AT_ONCE = 2
"""Blocks that an actor has: the next one is there when one is done."""


@dataclass
class RunCounts:
    """How far a run came.

    Attributes:
        images: That have their row.
        failed: With an error in it.
        passing: With one that may pass.
        fault: What ended the run before its end.
        exit_code: Of the fault.
    """

    images: int = 0
    failed: int = 0
    passing: int = 0
    fault: str = ""
    exit_code: int = 0

    def add(self, scored: ScoredBlock) -> None:
        """Takes in what became of a block."""
        self.images += scored.images
        self.failed += scored.failed
        self.passing += scored.passing
        self.fault, self.exit_code = scored.fault, scored.exit_code


def score_all(
    plan: ScoringPlan, job: Job, pool: ActorPool, interruption: Interruption
) -> RunCounts:
    """Scores what a plan has, until it is done, interrupted or cannot go on.

    Args:
        plan: What is left.
        job: What an actor needs to know.
        pool: The actors.
        interruption: Ends the run; the parts that there are stay.
    """
    tally = RunCounts()
    progress = Progress(sys.stderr, "images", plan.images)
    nodes = _NodeWatch()
    for scored in _results(plan, job, pool):
        if interruption.number is not None:
            break
        for node in nodes.lost():
            progress.clear()
            say(f"note: node {node} was lost; what it had in hand is scored again")
        if isinstance(scored, BaseException):
            tally.fault, tally.exit_code = _failure(scored), WorkerFailedError.exit_code
            break
        if scored is not None:
            tally.add(scored)
            if tally.fault:
                break
        progress.update(tally.images, tally.failed)
    progress.clear()
    return tally


class _NodeWatch:
    """Looks now and then which nodes are lost."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        lost_nodes(self._known)
        self._looked = time.monotonic()

    def lost(self) -> list[str]:
        """Returns the nodes that were lost since it was asked last."""
        now = time.monotonic()
        if now - self._looked < NODES_SECONDS:
            return []
        self._looked = now
        return lost_nodes(self._known)


def _results(
    plan: ScoringPlan, job: Job, pool: ActorPool
) -> Iterator[ScoredBlock | BaseException | None]:
    """Yields what becomes of the blocks as it is known, and None where a while goes by.

    Ray waits for results in a thread of its own, since nothing interrupts it there.
    """
    found: Queue[ScoredBlock | BaseException | None] = Queue()
    thread = threading.Thread(target=_run, args=(plan, job, pool, found), daemon=True)
    thread.start()
    while True:
        try:
            scored = found.get(timeout=LOOK_UP_SECONDS)
        except Empty:
            yield None
            continue
        if scored is None:
            return
        yield scored


def _run(
    plan: ScoringPlan, job: Job, pool: ActorPool, found: "Queue[ScoredBlock | BaseException | None]"
) -> None:
    try:
        for row in _dataset(plan, job, pool).iter_rows():
            found.put(ScoredBlock(**row))
        found.put(None)
    except BaseException as error:
        found.put(error)


def _dataset(plan: ScoringPlan, job: Job, pool: ActorPool) -> Any:
    """Returns the blocks' results as a data set that is computed as it is read."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # A node that is lost is no error; what an actor meets in images is a row.
    blocks = [asdict(block) for block in plan.blocks(pool.size)]
    return ray.data.from_items(blocks, override_num_blocks=len(blocks)).map_batches(
        ScoringActor,
        fn_constructor_args=(job,),
        batch_size=1,
        num_cpus=pool.cores,
        num_gpus=1 if pool.on_gpu else 0,
        compute=ActorPoolStrategy(size=pool.size, max_tasks_in_flight_per_actor=AT_ONCE),
    )


def _failure(error: BaseException) -> str:
    """Returns what Ray has met, which is what a traceback of its own ends with."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"Ray could not go on: {one_line(lines[-1])}"
