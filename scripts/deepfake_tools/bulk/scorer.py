"""The actor: holds a detector, reads the images of a block, judges them, writes their part."""

import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
from clip_deepfake.card import read_card
from clip_deepfake.errors import DetectorError, EngineLostError, LoadError
from clip_deepfake.face_detector import Box
from clip_deepfake.loading import load_detector
from clip_deepfake.system import available_cores
from clip_deepfake.verdicts import Judgement, Verdict

from deepfake_tools.bulk.archive_copy import ArchiveCopy
from deepfake_tools.bulk.attempts import Attempts
from deepfake_tools.bulk.contents import Failed, ImageReader
from deepfake_tools.bulk.dataset import (
    SCHEMA,
    TRANSIENT,
    DataSet,
    Provenance,
    Row,
    make_table,
    to_parquet,
)
from deepfake_tools.bulk.items import Item
from deepfake_tools.bulk.plan import Block, read_block
from deepfake_tools.errors import OutputError, ServiceError, WorkerFailedError, one_line
from deepfake_tools.evaluation.outcomes import LABELS
from deepfake_tools.inspection import ArchiveError
from deepfake_tools.storage import open_place

CHUNK = 64
"""Images that are judged together: the engine waits for the first ones of each chunk alone."""

Batch = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Job:
    """What every actor needs to know.

    Attributes:
        archive: Of the detector.
        output: The data set's folder, as it was given.
        session: The run's number among those that wrote there.
        stores: The URIs that items' stores are positions of.
        column: Of Parquet data sets, the one that holds the bytes; None without any.
        cores: That an actor computes with.
        on_gpu: Whether it has a GPU.
    """

    archive: ArchiveCopy
    output: str
    session: int
    stores: tuple[str, ...]
    column: str | None
    cores: int
    on_gpu: bool


@dataclass(frozen=True)
class ScoredBlock:
    """What became of a block.

    Attributes:
        number: Of the block.
        images: How many were judged or have an error.
        failed: How many of them have an error.
        passing: Whose error may pass.
        fault: Why there is no part; empty where there is one.
        exit_code: Of the fault.
    """

    number: int
    images: int = 0
    failed: int = 0
    passing: int = 0
    fault: str = ""
    exit_code: int = 0


class ScoringActor:
    """An actor.

    A fault is no exception: Ray would take the actor for lost, and begin it again elsewhere.

    Args:
        job: What to do.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._fault, self._exit_code = "", ArchiveError.exit_code
        self._contents = ImageReader(job.stores, job.column, job.cores)
        self._output = DataSet(open_place(job.output))
        try:
            attempts = Attempts.begin(self._output.plan, f"actor-{_actor()}")
            if attempts.is_suspect:
                self._fault = (
                    f"the process that opens the archive on node {_node()} has ended "
                    f"{attempts.lost} times before it was done: is there memory enough?"
                )
                return
            folder = job.archive.unpacked()
            threads = None if job.cores >= available_cores() else job.cores
            # Of the GPUs Ray shows an actor its own alone.
            self._detector = load_detector(folder, 0 if job.on_gpu else None, threads)
            attempts.end()
        except OutputError as error:
            self._fault, self._exit_code = f"{error} (node {_node()})", error.exit_code
            return
        except (LoadError, OSError) as error:
            self._fault = f"the archive cannot be used on node {_node()}: {error}"
            return
        detector = {**read_card(folder).short(), "engine": self._detector.engine.name}
        self._origin = Provenance(job.archive.sha256, detector)

    def __call__(self, blocks: Batch) -> dict[str, npt.NDArray[Any]]:
        """Scores blocks, whose fields are columns, as Ray Data has them."""
        columns = [blocks[field.name].tolist() for field in fields(Block)]
        scored = [self._scored(Block(*row)) for row in zip(*columns, strict=True)]
        return {
            field.name: np.array([getattr(one, field.name) for one in scored])
            for field in fields(ScoredBlock)
        }

    def _scored(self, block: Block) -> ScoredBlock:
        if self._fault:
            return ScoredBlock(block.number, fault=self._fault, exit_code=self._exit_code)
        try:
            items = read_block(self._output.plan, block)
            attempts = Attempts.begin(self._output.plan, f"block-{block.number:06}")
            judge = self._judge_one_by_one if attempts.is_suspect else self._judge
            rows = list(judge(items, attempts))
            part = self._output.name_part(self._job.session, block.number)
            part.write(to_parquet(make_table(rows, self._origin)))
        except ServiceError as error:
            return ScoredBlock(
                block.number, fault=f"{error} (node {_node()})", exit_code=error.exit_code
            )
        except EngineLostError as error:
            fault = f"the device of node {_node()} was lost: {error}"
            return ScoredBlock(block.number, fault=fault, exit_code=WorkerFailedError.exit_code)
        except Exception as error:
            fault = f"an actor on node {_node()} failed: {type(error).__name__}: {one_line(error)}"
            return ScoredBlock(block.number, fault=fault, exit_code=WorkerFailedError.exit_code)
        errors = [row["error"] for row in rows if row["error"] is not None]
        passing = sum(error in TRANSIENT for error in errors)
        return ScoredBlock(block.number, len(rows), len(errors), passing)

    def _judge_one_by_one(self, items: Sequence[Item], attempts: Attempts) -> Iterator[Row]:
        """Does so in a way in which an image that ends the process is found, and has an error."""
        for position, item in enumerate(items):
            if position in attempts.given_up:
                yield make_row(item, Failed(WorkerFailedError.kind))
            else:
                attempts.take(position)
                yield from self._judge([item], attempts)

    def _judge(self, items: Sequence[Item], _: Attempts) -> Iterator[Row]:
        """Yields a row for each image, the broken ones included."""
        contents = self._contents.read(items)
        while some := list(islice(contents, CHUNK)):
            readable = [content for _, content in some if isinstance(content, bytes)]
            results = iter(self._detector.judge(readable))
            for item, content in some:
                yield make_row(item, next(results) if isinstance(content, bytes) else content)


def make_row(item: Item, result: Verdict | DetectorError | Failed) -> Row:
    """Returns an image's row: as a served answer has it, with an error's code for its message."""
    truth = None if item.label is None else LABELS[item.label]
    row = {**dict.fromkeys(SCHEMA.names), "path": item.name, "true_label": truth}
    if isinstance(result, Failed):
        return {**row, "error": str(result)}
    if isinstance(result, DetectorError):
        return {**row, "error": result.code}
    return {
        **row,
        "margin": result.margin,
        "fake_probability": result.fake_probability,
        "label": result.label,
        "decision": result.decision,
        "faces": _faces(result),
    }


def _faces(verdict: Verdict) -> list[dict[str, object]] | None:
    """The judged faces: all of them, or the one that the verdict is about."""
    if verdict.face is None:
        return None
    if verdict.faces is not None:
        return [_face(face, face.box) for face in verdict.faces]
    return [] if verdict.face.box is None else [_face(verdict, verdict.face.box)]


def _face(judged: Judgement, box: Box) -> dict[str, object]:
    return {
        "box": list(box),
        "fake_probability": judged.fake_probability,
        "prediction": judged.prediction,
        "margin": judged.margin,
    }


def _actor() -> str:
    """The actor's name in Ray, which it keeps when it begins again in another process."""
    return str(ray.get_runtime_context().get_actor_id())


def _node() -> str:
    """The node as a person knows it."""
    address = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return f"{address} ({socket.gethostname()})"
