"""Bulk scoring from the command's words to its last line."""

import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clip_deepfake.archive_files import file_digest
from clip_deepfake.card import Card, parse_card
from clip_deepfake.errors import LoadError

from deepfake_tools.bulk.archive_copy import ArchiveCopy
from deepfake_tools.bulk.cluster import muster, ray_running
from deepfake_tools.bulk.dataset import DataSet, MixedOutputError, Provenance
from deepfake_tools.bulk.items import Item
from deepfake_tools.bulk.listing import Listing, Wanted
from deepfake_tools.bulk.plan import ScoringPlan, write_plan
from deepfake_tools.bulk.run import RunCounts, score_all
from deepfake_tools.bulk.scorer import Job
from deepfake_tools.bulk.summary import figures
from deepfake_tools.cli import say
from deepfake_tools.files import try_lock
from deepfake_tools.inspection import CARD_ENTRY, ArchiveError, inspect_archive
from deepfake_tools.interrupts import Interruption
from deepfake_tools.storage import is_uri, open_place, unwritable

SIGNALLED = 128
SAID_EACH = 100_000


@dataclass(frozen=True)
class Order:
    """What a person wants.

    Attributes:
        archive: Of the detector.
        wanted: What is to be scored.
        output: The folder of the answers, a path or a URI.
        resume: Whether to go on with what is there.
        address: Of a Ray cluster; None starts Ray here.
        gpus: That are used; 0 computes on processors.
        cores: Of each actor; None takes a node's.
        tolerated: The share of images without a verdict up to which there is no failure.
    """

    archive: Path
    wanted: Wanted
    output: str
    resume: bool = False
    address: str | None = None
    gpus: int = 0
    cores: int | None = None
    tolerated: float = 1.0


def score(order: Order) -> int:
    """Scores what was ordered, says what came of it, and returns the exit code.

    Raises:
        ServiceError: It cannot begin, or what it wrote cannot be read.
        CollectionError: What was named holds no images.
        ColumnError: A Parquet data set has not the columns that were named.
        LabelError: A label cannot be known.
    """
    card = _card(order.archive)
    origin = Provenance(file_digest(order.archive), card.short())
    dataset = DataSet(open_place(order.output))
    dataset.check(origin, resume=order.resume)
    dataset.place.make_folder()
    tally = RunCounts()
    with _alone(dataset), Interruption() as interruption:
        answered = dataset.answered()
        listing = Listing(order.wanted)
        items = _found(listing, interruption)
        plan = write_plan(dataset.plan, items, answered.names, may_repeat=listing.may_repeat)
        _note_what_is_odd(listing, plan, answered.again)
        if plan.images:
            tally = _score(order, plan, listing, answered.sessions + 1, origin, interruption)
        _tell(order, dataset, plan, tally)
        if not tally.fault:
            dataset.plan.remove_folder()
    if card.head.source == "untrained":
        say("warning: this detector's head is untrained: its predictions are chance, not evidence")
    if interruption.number is not None:
        return SIGNALLED + interruption.number
    return tally.exit_code or int(tally.failed > order.tolerated * tally.images)


def _card(path: Path) -> Card:
    """Returns an archive's card.

    Raises:
        ArchiveError: It is damaged, or none of this project's.
    """
    inspect_archive(path, contents=False)
    try:
        with zipfile.ZipFile(path) as archive:
            return parse_card(archive.read(CARD_ENTRY))
    except (LoadError, OSError, zipfile.BadZipFile) as error:
        raise ArchiveError(f"{path}: {error}") from error


@contextmanager
def _alone(dataset: DataSet) -> Iterator[None]:
    """Keeps other runs on this machine from writing there; no store has a lock.

    Raises:
        MixedOutputError: One does.
        OutputError: Nothing can be written there.
    """
    if dataset.place.files is not None:
        yield
        return
    place = dataset.place / ".score.lock"
    lock = Path(place.path)
    try:
        file = lock.open("w")
    except OSError as error:
        raise unwritable(place, error) from error
    with file:
        if not try_lock(file):
            raise MixedOutputError(f"another run is writing into {dataset.place}: wait for it")
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _found(listing: Listing, interruption: Interruption) -> Iterator[Item]:
    """Yields what is listed, and says now and then how much that is.

    Raises:
        KeyboardInterrupt: The user stopped it.
    """
    for number, item in enumerate(listing):
        if interruption.number is not None:
            raise KeyboardInterrupt
        if number and number % SAID_EACH == 0:
            say(f"{number:,} images found so far")
        yield item


def _note_what_is_odd(listing: Listing, plan: ScoringPlan, again: int) -> None:
    """Says what the user may not expect of the images, and how they are labelled."""
    print(*listing.labelled.lines(), sep="\n", file=sys.stderr)
    for note in [*listing.left_out.notes(), *listing.notes]:
        say(f"note: {note}")
    if plan.repeated:
        say(f"note: {plan.repeated} images were named twice")
    if plan.answered:
        say(f"{plan.answered} images have their answer, {plan.images} are left")
    if again:
        say(f"{again} are asked about again, since their errors may have passed")


def _score(
    order: Order,
    plan: ScoringPlan,
    listing: Listing,
    session: int,
    origin: Provenance,
    interruption: Interruption,
) -> RunCounts:
    """Starts Ray, scores what is left, and says how fast that was."""
    with ray_running(order.address):
        pool = muster(order.gpus, order.cores)
        archive = ArchiveCopy.of(
            order.archive, origin.archive_sha256, travels=order.address is not None
        )
        column = None if order.wanted.columns is None else order.wanted.columns.image
        job = Job(
            archive,
            _everywhere(order.output),
            session,
            tuple(listing.stores),
            column,
            pool.cores,
            pool.on_gpu,
        )
        say(f"{plan.images} images, {pool}")
        begun = time.monotonic()
        tally = score_all(plan, job, pool, interruption)
        seconds = time.monotonic() - begun
    say(f"{tally.images} images in {seconds:.1f} s, {tally.images / seconds:.1f} a second")
    return tally


def _everywhere(output: str) -> str:
    """A path as it is in any other folder; a URI as it is."""
    return output if is_uri(output) else str(Path(output).absolute())


def _tell(order: Order, dataset: DataSet, plan: ScoringPlan, tally: RunCounts) -> None:
    """Prints the figures of all that the data set holds, and what is missing in it."""
    if dataset.parts():
        print(*figures(dataset.place), f"Answers written to {dataset.place}", sep="\n")
    if tally.fault:
        say(f"error: {tally.fault}")
    if missing := plan.images - tally.images:
        say(f"{missing} images have no answer: the same command with --resume goes on")
    elif tally.passing:
        say(f"{tally.passing} errors may pass: the same command with --resume asks again")
