"""Archives and a plan in, everything that is measured in interleaved rounds out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from clip_deepfake.card import ENCODER_FILE

from benchmarks.checkpoint import write_checkpoint
from benchmarks.contenders import (
    ArchiveContender,
    Contender,
    in_process_job,
    run_in_process,
)
from benchmarks.jobs import InProcessResult
from benchmarks.plan import Plan, Record
from benchmarks.rivals import line_up_rivals, preprocessings
from benchmarks.unpacked import Unpacked


@dataclass(frozen=True)
class Entry:
    """An archive that takes part, and what it answers.

    Attributes:
        archive: The archive.
        answers: To the plan's images, from one process.
    """

    archive: Unpacked
    answers: InProcessResult


def enter(archives: Sequence[Unpacked], plan: Plan) -> list[Entry]:
    """Asks each archive once, for what all later answers are compared with.

    Raises:
        BenchmarkError: One cannot be loaded.
    """
    return [Entry(archive, _ask(archive, plan)) for archive in archives]


def _ask(archive: Unpacked, plan: Plan) -> InProcessResult:
    job = in_process_job(archive, plan, preprocessings=preprocessings(archive.card))
    return run_in_process(replace(job, passes=(), seconds=0.0, warm_up_s=0.0), plan)


def line_up(entries: Sequence[Entry], plan: Plan, *, versus: bool, stages: bool) -> list[Contender]:
    """Returns all that is to be measured.

    Args:
        entries: The archives.
        plan: How to measure.
        versus: Whether to measure the rivals too, with the weights of one of the archives.
        stages: Whether to time the stages of a batch too.

    Raises:
        BenchmarkError: No archive holds weights that a rival can load.
    """
    contenders: list[Contender] = [
        ArchiveContender(entry.archive, entry.answers, stages=stages) for entry in entries
    ]
    if versus:
        source = _source(entries)
        job = write_checkpoint(source.archive, plan.scratch / "checkpoint")
        contenders += line_up_rivals(job, source.answers.logits_after, bfloat16=plan.bfloat16)
    return contenders


def _source(entries: Sequence[Entry]) -> Entry:
    """Chooses whose weights the rivals get: float32 ones where there are some."""
    able = [entry for entry in entries if ENCODER_FILE in entry.archive.card.files]
    exact = [entry for entry in able if entry.archive.card.precision == "float32"]
    return (exact or able or list(entries))[0]


def measure(
    contenders: Sequence[Contender], plan: Plan, rounds: int, say: Callable[[str], None]
) -> Record:
    """Measures each contender in each round, alone on the machine.

    Every other round goes backwards, so that a machine that grows slower or faster meanwhile
    treats all alike.

    Raises:
        BenchmarkError: A contender failed, or answered wrongly: there are no figures then.
    """
    record = Record(say)
    for number in range(1, rounds + 1):
        for contender in contenders if number % 2 else reversed(contenders):
            contender.measure(number, plan, record)
    return record
