"""Parquet data sets as input: which rows there are, and the bytes of one after the other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from deepfake_tools.labels import SPELLINGS, Label, LabelError
from deepfake_tools.storage import LARGEST_FILE, Location, opened_parquet

ROWS = 64
"""Read at a time: of photographs of 5 MB, 320 MB."""


class ColumnError(Exception):
    """A Parquet data set has not the columns that were named; the message lists what it has."""


@dataclass(frozen=True)
class Columns:
    """Which columns of a Parquet data set hold what.

    Attributes:
        image: The images' bytes, or their paths; a struct with a field `bytes`, as Hugging Face's
            data sets have, counts as the former.
        label: The true labels; None where directories' names tell them.
        name: What each image is to be called; None for FILE#ROW, and where there are paths.
    """

    image: str
    label: str | None = None
    name: str | None = None


def holds_paths(schema: Any, columns: Columns, file: Location) -> bool:
    """Returns whether a column holds paths, or else bytes.

    Raises:
        ColumnError: One of the columns is not there, or holds neither.
    """
    for name in (columns.image, columns.label, columns.name):
        if name is not None and name not in schema.names:
            raise ColumnError(
                f"{file} has no column {name!r}; its columns are {', '.join(schema.names)}"
            )
    kind = schema.field(columns.image).type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return True
    if _is_bytes(kind) or (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0):
        return False
    raise ColumnError(
        f"{file}: the column {columns.image!r} is of {kind}: it must hold an image's bytes "
        "(binary, or a struct with them) or its path (string)"
    )


def _is_bytes(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


@dataclass(frozen=True, slots=True)
class NamedRow:
    """A row of a Parquet file, without the image.

    Attributes:
        number: Of the row in the file.
        holds_path: Whether it holds the image's path, rather than its bytes.
        text: The path, or the name that a column gives it; None where there is none.
        label: Its true label.
    """

    number: int
    holds_path: bool
    text: str | None = None
    label: Label | None = None


def list_rows(file: Location, columns: Columns) -> Iterator[NamedRow]:
    """Yields a file's rows.

    Raises:
        ColumnError: A column is not there, or not as it must be.
        LabelError: A label is none.
        StorageError: It cannot be read.
    """
    with opened_parquet(file) as parquet:
        paths = holds_paths(parquet.schema_arrow, columns, file)
        text = columns.image if paths else columns.name
        wanted = [name for name in (text, columns.label) if name is not None]
        if not wanted:
            yield from (NamedRow(number, paths) for number in range(parquet.metadata.num_rows))
            return
        number = 0
        for batch in parquet.iter_batches(batch_size=4096, columns=wanted, use_threads=False):
            none = [None] * len(batch)
            texts = none if text is None else batch[text].to_pylist()
            labels = none if columns.label is None else batch[columns.label].to_pylist()
            for one, label in zip(texts, labels, strict=True):
                named = None if one is None else str(one)
                yield NamedRow(number, paths, named, _label(label, file, number))
                number += 1


def _label(value: object, file: Location, row: int) -> Label | None:
    if value is None:
        return None
    text = str(int(value)) if isinstance(value, bool | float) else str(value)
    known = SPELLINGS.get(text.strip().lower())
    if known is None:
        raise LabelError(f"{file}, row {row}: {value!r} is no label; use {', '.join(SPELLINGS)}")
    return known


class RowReader:
    """Reads images' bytes out of Parquet files; rising rows of one file without going back.

    A column's values have no index: to read a row, those before it in its row group are read too.
    So the reader stays where it is, and goes on from there when the next rows come.

    Args:
        column: That holds the bytes.
    """

    def __init__(self, column: str) -> None:
        self._column = column
        self._file: Location | None = None
        self._next = 0
        self._batches: Iterator[tuple[int, Any]] = iter(())
        self._batch: Any = None

    def read(self, file: Location, row: int) -> bytes | None:
        """Returns a row's bytes; None where it has none.

        Raises:
            OSError: The file cannot be read.
            OverflowError: The image is larger than an image's file may be.
        """
        if file != self._file or row < self._next:
            self._open(file, row)
        while self._batch is None or row >= self._next + len(self._batch):
            self._next, self._batch = next(self._batches)
        value = self._batch[row - self._next]
        if not value.is_valid:
            return None
        buffer = value.as_buffer()
        if len(buffer) > LARGEST_FILE:
            raise OverflowError(len(buffer))
        data: bytes = buffer.to_pybytes()
        return data

    def _open(self, file: Location, row: int) -> None:
        parquet = pq.ParquetFile(file.arrow.open_input_file(file.path), pre_buffer=False)
        first = number = 0
        counts = [parquet.metadata.row_group(k).num_rows for k in range(parquet.num_row_groups)]
        while row >= first + counts[number]:
            first, number = first + counts[number], number + 1
        self._file, self._next, self._batch = file, first, None
        self._batches = self._read(parquet, first, range(number, len(counts)))

    def _read(self, parquet: Any, first: int, groups: Sequence[int]) -> Iterator[tuple[int, Any]]:
        for batch in parquet.iter_batches(
            batch_size=ROWS, row_groups=list(groups), columns=[self._column], use_threads=False
        ):
            values = batch.column(0)
            if pa.types.is_struct(values.type):
                values = values.field("bytes")
            yield first, values
            first += len(batch)
