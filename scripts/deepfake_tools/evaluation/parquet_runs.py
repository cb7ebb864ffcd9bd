"""The Parquet data sets that `score.py` writes, read back as runs; needs the extra `score`."""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from deepfake_tools.errors import ServiceError, one_line
from deepfake_tools.evaluation.outcomes import Outcome, Totals
from deepfake_tools.evaluation.saved_runs import (
    SavedRun,
    SavedRunError,
    count_distinct,
    read_faces,
)
from deepfake_tools.extras import require_extra
from deepfake_tools.labels import SPELLINGS, Label, LabelError, read_folder
from deepfake_tools.torchserve.answers import MOST, DetectorInfo, Ruling, parse_detector

if TYPE_CHECKING:
    from pyarrow import Schema
    from pyarrow.parquet import ParquetFile

    from deepfake_tools.storage import Location

METADATA = b"clip_deepfake"
"""Key of the schema's metadata under which a part says what judged its images."""

COLUMNS_VERSION = 1
COLUMNS = ("path", "margin", "fake_probability", "label", "decision", "faces", "error")
"""Those that are needed of it, and there in any part."""

TRUE_LABEL = "true_label"
PREDICTIONS = {"REAL": 0, "FAKE": 1}
BATCH = 8192
"""Rows that are in memory at a time."""


Row = dict[str, Any]


@dataclass(frozen=True)
class _DataSet:
    """Parts that one archive has judged.

    Attributes:
        name: Of the file or folder, for messages.
        parts: Its files, in the order of their names.
        detector: What judged them.
        label_column: Holds the true labels; None where no column does.
    """

    name: str
    parts: tuple["Location", ...]
    detector: DetectorInfo
    label_column: str | None

    def rows(self, *columns: str) -> Iterator[Row]:
        """Yields all rows in order, a batch in memory at a time.

        Raises:
            SavedRunError: A part is damaged.
        """
        from pyarrow import ArrowException

        for part in self.parts:
            try:
                with _opened(part) as file:
                    for batch in file.iter_batches(BATCH, columns=list(columns)):
                        yield from batch.to_pylist()
            except (ArrowException, OSError, OverflowError, ValueError) as error:
                raise SavedRunError(f"{part} is damaged: {one_line(error)}") from error

    def outcomes(self, root: str | None, *, stored: bool) -> Iterator[Outcome]:
        """Yields the outcomes.

        Args:
            root: The deepest folder that holds all images; None leaves all in one.
            stored: Whether a column tells the labels, rather than the directories' names.

        Raises:
            SavedRunError: A value cannot be used.
            LabelError: A label cannot be known.
        """
        more = (self.label_column,) if stored and self.label_column else ()
        for place, row in enumerate(self.rows(*COLUMNS, *more)):
            folder = os.path.dirname(row["path"])  # noqa: PTH120 - URIs keep their two slashes
            label = (
                _stored_label(row[more[0]], self.name, more[0])
                if more
                else read_folder(Path(folder), Path(root or "")).label
            )
            try:
                yield _outcome(row, place, "" if root is None else _relative(folder, root), label)
            except ValueError as error:
                raise SavedRunError(f"{self.name}, row {place}: {error}") from error


def stored_outcomes(folder: "Location") -> Iterator[Outcome]:
    """Yields what a data set of score.py holds, by the labels that it stored; folders are left out.

    Raises:
        SavedRunError: It is damaged, or mixes archives.
        LabelError: A label cannot be known.
    """
    yield from _find(folder, TRUE_LABEL).outcomes(None, stored=True)


def read_parquet(path: Path | str, label_column: str | None, command: str) -> SavedRun:
    """Reads a data set.

    Where a row says a true label, the stored ones are the labels, and those that are null are not
    known. Where none does, the names of the directories tell it that lie between an image and the
    deepest folder that holds all of them.

    Args:
        path: One file, or a folder of parts; or the URI of one.
        label_column: The column of the labels, in place of the one that score.py writes.
        command: The command line that tells of it.

    Raises:
        SavedRunError: It is no such data set, is damaged, has an image twice, or mixes archives.
        LabelError: A label cannot be known.
        MissingExtraError: pyarrow is not installed.
    """
    require_extra(f"reading {path}", "pyarrow", extra="score")
    from deepfake_tools.storage import StorageError, open_place

    try:
        found = _find(open_place(str(path)), label_column)
    except StorageError as error:
        raise SavedRunError(str(error)) from error
    name = found.name
    images = count_distinct((_path(row, name) for row in found.rows("path")), name)
    folders = {os.path.dirname(row["path"]) for row in found.rows("path")}  # noqa: PTH120
    root = _common(folders)
    column = found.label_column
    stored = column is not None and (
        label_column is not None or any(row[column] is not None for row in found.rows(column))
    )
    totals = Totals(None, None, 0, command, None, found.detector.model, found.detector)
    return SavedRun(name, images, lambda: found.outcomes(root, stored=stored), totals)


def _find(place: "Location", label_column: str | None) -> _DataSet:
    """Returns a data set's parts, once they are seen to belong together.

    Raises:
        SavedRunError: They do not, or have not the columns.
        StorageError: The folder cannot be read.
    """
    from deepfake_tools.storage import parquet_files

    parts = parquet_files(place)
    if not parts:
        raise SavedRunError(f"there is no .parquet file in {place}: name what score.py wrote")
    schemas = [(part, _schema(part)) for part in parts]
    detector = _only_detector(schemas)
    wanted = COLUMNS if label_column is None else (*COLUMNS, label_column)
    for part, schema in schemas:
        if missing := [name for name in wanted if name not in schema.names]:
            raise SavedRunError(
                f"{part} has no column {', '.join(missing)}; it has {', '.join(schema.names)}"
            )
    if label_column is None and all(TRUE_LABEL in schema.names for _, schema in schemas):
        label_column = TRUE_LABEL
    return _DataSet(str(place), tuple(parts), detector, label_column)


def _schema(part: "Location") -> "Schema":
    with _opened(part) as file:
        return file.schema_arrow


def _only_detector(schemas: Iterable[tuple["Location", "Schema"]]) -> DetectorInfo:
    """Returns what judged all of some parts.

    Raises:
        SavedRunError: They are of several archives, or one does not say.
    """
    (first, schema), *others = schemas
    archive, detector = _identity(first, schema)
    for part, schema in others:
        other, _ = _identity(part, schema)
        if other != archive:
            raise SavedRunError(
                f"{first} was scored by archive {archive[:16]} and {part} by {other[:16]}: "
                "figures of two archives together mean nothing; put each into a folder of its own"
            )
    return detector


def _opened(part: "Location") -> "ParquetFile":
    """Opens a part.

    Raises:
        SavedRunError: It is no Parquet file.
    """
    from pyarrow import ArrowException
    from pyarrow.fs import FileType
    from pyarrow.parquet import ParquetFile

    try:
        if part.kind() != FileType.File:
            raise SavedRunError(f"{part} is no regular file")
        return ParquetFile(part.arrow.open_input_file(part.path))
    except (ArrowException, OSError) as error:
        raise SavedRunError(f"{part} cannot be read as Parquet: {one_line(error)}") from error


def _identity(part: "Location", schema: "Schema") -> tuple[str, DetectorInfo]:
    """Returns the digest of the archive that judged a part, and its card's short form.

    Raises:
        SavedRunError: The part does not say it.
    """
    try:
        said = json.loads((schema.metadata or {})[METADATA])
        if said["columns_version"] != COLUMNS_VERSION:
            raise SavedRunError(
                f"{part} has the columns' version {one_line(said['columns_version'], 20)}, and "
                f"this reads version {COLUMNS_VERSION}: use the evaluate.py of its own score.py"
            )
        archive, detector = said["archive_sha256"], said["detector"]
        if not isinstance(archive, str) or not isinstance(detector, dict):
            raise TypeError("of another type")
        return archive, parse_detector(detector)
    except (KeyError, TypeError, ValueError, RecursionError, ServiceError) as error:
        raise SavedRunError(
            f"{part} does not say which archive judged its images, as score.py's parts do "
            f"({one_line(error, 80)})"
        ) from error


def _common(folders: set[str]) -> str:
    """Returns the deepest folder that holds all; "" where there is none, as of two buckets."""
    if not folders:
        return ""
    try:
        return os.path.commonpath(folders)
    except ValueError:  # relative ones among absolute ones
        return ""


def _relative(folder: str, root: str) -> str:
    name = Path(folder).relative_to(root).as_posix()
    return "" if name == "." else name


def _path(row: Row, name: str) -> str:
    """Returns a row's path.

    Raises:
        SavedRunError: It is none.
    """
    if isinstance(row["path"], str) and row["path"]:
        return row["path"]
    raise SavedRunError(f"{name} has a row whose path is {one_line(repr(row['path']), 60)}")


def _stored_label(value: object, name: str, column: str) -> Label | None:
    """Returns what a column says.

    Raises:
        LabelError: It is no label.
    """
    if value is None:
        return None
    known = SPELLINGS.get(str(value).strip().lower())
    if known is None:
        raise LabelError(
            f"{name}, column {column}: {one_line(repr(value), 40)} is no label; use "
            f"{', '.join(SPELLINGS)}"
        )
    return known


def _outcome(row: Row, place: int, folder: str, label: Label | None) -> Outcome:
    """Returns the outcome that a row holds.

    Raises:
        ValueError: A value is of another kind.
    """
    probability, error = row["fake_probability"], row["error"]
    prediction = PREDICTIONS.get(str(row["label"]))
    if error is None and (prediction is None or not _is_number(probability, 0, 1)):
        raise ValueError(
            f"it has no error, and is called {one_line(repr(row['label']), 20)} at "
            f"{one_line(repr(probability), 30)}"
        )
    if row["margin"] is not None and not _is_number(row["margin"], -MOST, MOST):
        raise ValueError(f"its margin is {one_line(repr(row['margin']), 30)}")
    if row["decision"] not in (None, *get_args(Ruling)):
        raise ValueError(f"its decision is {one_line(repr(row['decision']), 20)}")
    if error is not None:
        code = one_line(error)
        return Outcome(place, row["path"], label, folder, None, None, None, code, code)
    return Outcome(
        index=place,
        path=row["path"],
        label=label,
        folder=folder,
        prediction=prediction,
        fake_probability=probability,
        seconds=None,
        margin=row["margin"],
        decision=row["decision"],
        faces=None if row["faces"] is None else read_faces(row["faces"], "faces"),
    )


def _is_number(value: object, lowest: float, highest: float) -> bool:
    return isinstance(value, float) and lowest <= value <= highest
