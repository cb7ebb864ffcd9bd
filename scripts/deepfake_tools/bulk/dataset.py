"""The data set of answers: Parquet parts of rows, each whole or not there, of one archive alone."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from deepfake_tools.bulk.digests import NameSet
from deepfake_tools.errors import OutputError, ServiceError, one_line
from deepfake_tools.evaluation.parquet_runs import COLUMNS_VERSION, METADATA, TRUE_LABEL
from deepfake_tools.storage import Location, opened_parquet

FACES = pa.list_(
    pa.struct(
        [
            ("box", pa.list_(pa.int32())),
            ("fake_probability", pa.float64()),
            ("prediction", pa.int8()),
            ("margin", pa.float64()),
        ]
    )
)
SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("margin", pa.float64()),
        ("fake_probability", pa.float64()),
        ("label", pa.string()),
        ("decision", pa.string()),
        ("faces", FACES),
        ("error", pa.string()),
        (TRUE_LABEL, pa.string()),
    ]
)

TRANSIENT = frozenset({"internal_error", "connection_lost", "worker_failed"})
"""Errors that another attempt may not meet: --resume asks again."""

PART = re.compile(r"part-(\d{4,})-(\d{6,})\.parquet")
PLAN = "_plan"
"""The folder of what is left to do; what begins with _ is no part of a Parquet data set."""

Row = Mapping[str, object]


class MixedOutputError(ServiceError):
    """There is something in the output already that does not go together with this run."""

    exit_code: ClassVar[int] = 26
    meaning: ClassVar[str] = "the output holds another run's answers, or another archive's"
    kind = "output_in_use"
    is_general = True


@dataclass(frozen=True)
class Provenance:
    """What answers: it stands in every part.

    Attributes:
        archive_sha256: Of the archive's file.
        detector: The card's short form, as in every served answer.
    """

    archive_sha256: str
    detector: Mapping[str, Any]

    @property
    def shown(self) -> str:
        """The archive as a person tells it from others."""
        model, version = self.detector.get("model"), self.detector.get("version")
        return one_line(f"{model} version {version}, archive {self.archive_sha256[:12]}")

    def to_metadata(self) -> dict[bytes, bytes]:
        """Returns what a part's schema has of it."""
        return {METADATA: json.dumps({**vars(self), "columns_version": COLUMNS_VERSION}).encode()}

    @classmethod
    def of(cls, schema: Any) -> "Provenance | None":
        """Reads it off a part's schema; None where the part is none of this project's."""
        try:
            found = json.loads((schema.metadata or {})[METADATA])
            if found["columns_version"] == COLUMNS_VERSION:
                return cls(str(found["archive_sha256"]), dict(found["detector"]))
        except (KeyError, ValueError, TypeError):
            pass
        return None


@dataclass(frozen=True)
class Answered:
    """What a data set holds.

    Attributes:
        names: The paths of the images that have their answer.
        sessions: How many runs have written to it.
        again: Rows whose error may pass.
    """

    names: NameSet
    sessions: int
    again: int


class DataSet:
    """The data set in a folder, there or yet to be made.

    Args:
        place: The folder.
    """

    def __init__(self, place: Location) -> None:
        self.place = place

    @property
    def plan(self) -> Location:
        """The folder of what is left to do."""
        return self.place / PLAN

    def parts(self) -> list[Location]:
        """Returns the parts in the order of the runs and of their images.

        Raises:
            StorageError: The folder cannot be read.
        """
        if self.place.kind() != fs.FileType.Directory:
            return []
        found = [self.place.at(path) for path, is_folder in self.place.entries() if not is_folder]
        numbered = [(match, part) for part in found if (match := PART.fullmatch(part.name))]
        return [part for _, part in sorted(numbered, key=lambda one: _numbers(one[0]))]

    def strangers(self) -> list[str]:
        """Returns the names of what is in the folder, visible, and not of a data set."""
        kind = self.place.kind()
        if kind == fs.FileType.NotFound:
            return []
        if kind == fs.FileType.File:
            raise OutputError(f"cannot write into {self.place}: it is a file; --output is a folder")
        names = [PurePosixPath(path).name for path, _ in self.place.entries()]
        return [name for name in names if not PART.fullmatch(name) and name[0] not in "._"]

    def check(self, origin: Provenance, *, resume: bool) -> None:
        """Refuses to write among what is there.

        Raises:
            MixedOutputError: Naming it, and what to do.
            StorageError: It cannot be found out.
        """
        if strangers := self.strangers():
            raise MixedOutputError(
                f"{self.place} holds {one_line(strangers[0])}, which is no part of a data set of "
                "answers: name a folder of its own by --output"
            )
        parts = self.parts()
        for part in parts:
            found = Provenance.of(read_schema(part))
            if found is None:
                raise MixedOutputError(
                    f"{part} does not say which archive its answers are of: name another --output"
                )
            if found.archive_sha256 != origin.archive_sha256:
                raise MixedOutputError(
                    f"{self.place} holds the answers of {found.shown}, and this is "
                    f"{origin.shown}: name another --output, one for each archive"
                )
        if parts and not resume:
            raise MixedOutputError(
                f"{self.place} holds the answers of an earlier run: --resume goes on with it; else "
                "name another --output"
            )

    def answered(self) -> Answered:
        """Finds out what needs no answer any more, and takes out what is to be asked again.

        A part is written anew without these rows, so that no image ever has two.

        Raises:
            StorageError: A part cannot be read.
            OutputError: It cannot be written.
        """
        names, session, again = NameSet(), 0, 0
        for part in self.parts():
            match = PART.fullmatch(part.name)
            session = max(session, _numbers(match)[0] if match else 0)
            table = read_table(part, SCHEMA.names)
            passing = [error in TRANSIENT for error in table["error"].to_pylist()]
            if any(passing):
                again += sum(passing)
                table = table.filter(pa.array([not one for one in passing]))
                part.write(to_parquet(table))
            names.add(table["path"].to_pylist())
        return Answered(names, session, again)

    def name_part(self, session: int, number: int) -> Location:
        """Returns where a part is: of one block of images it is always the same."""
        return self.place / f"part-{session:04}-{number:06}.parquet"


def _numbers(match: "re.Match[str]") -> tuple[int, int]:
    return int(match[1]), int(match[2])


def make_table(rows: Sequence[Row], origin: Provenance) -> Any:
    """Returns rows as a table with its origin."""
    return pa.Table.from_pylist(list(rows), SCHEMA.with_metadata(origin.to_metadata()))


def to_parquet(table: Any) -> bytes:
    """Returns a table as the bytes of a Parquet file, so that it is written in one piece."""
    file = BytesIO()
    pq.write_table(table, file, compression="zstd")
    return file.getvalue()


def read_schema(part: Location) -> Any:
    """Returns the schema of a Parquet file.

    Raises:
        StorageError: It cannot be read, or is none.
    """
    with opened_parquet(part) as file:
        return file.schema_arrow


def read_table(part: Location, columns: Sequence[str]) -> Any:
    """Returns columns of a Parquet file.

    Raises:
        StorageError: It cannot be read, or lacks one.
    """
    with opened_parquet(part) as file:
        return file.read(columns=list(columns), use_threads=False)
