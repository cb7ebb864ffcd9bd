"""One image to score: where it is, and what is known of it before anybody reads it."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import pyarrow as pa

from deepfake_tools.labels import Label


class SourceKind(IntEnum):
    """What an image lies in."""

    FILE = 0
    ROW = 1
    FRAME = 2


@dataclass(frozen=True, slots=True)
class Item:
    """One image to score.

    Attributes:
        name: What it is called in the answers.
        source: The file that it lies in: a path, or a path within a store.
        label: The truth: 0 real, 1 fake, None where it is not known.
        kind: What it lies in.
        place: Its row in a Parquet file, or its frame's number in a video.
        store: Which of the run's stores it is in; -1 for this machine's own files.
        fault: Why it cannot be read, where that is known already: an error's code.
    """

    name: str
    source: str
    label: Label | None = None
    kind: SourceKind = SourceKind.FILE
    place: int = 0
    store: int = -1
    fault: str | None = None


SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        # A file's name may be no UTF-8.
        ("source", pa.binary()),
        ("label", pa.int8()),
        ("kind", pa.int8()),
        ("place", pa.int64()),
        ("store", pa.int16()),
        ("fault", pa.string()),
    ]
)


def to_table(items: Iterable[Item]) -> Any:
    """Returns items as a table."""
    columns: list[list[object]] = [[] for _ in SCHEMA.names]
    for item in items:
        values = (
            item.name,
            os.fsencode(item.source),
            item.label,
            item.kind.value,
            item.place,
            item.store,
            item.fault,
        )
        for column, value in zip(columns, values, strict=True):
            column.append(value)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def from_table(table: Any) -> list[Item]:
    """Returns the items that a table was made of."""
    columns = [table[name].to_pylist() for name in SCHEMA.names]
    return [
        Item(name, os.fsdecode(source), label, SourceKind(kind), place, store, fault)
        for name, source, label, kind, place, store, fault in zip(*columns, strict=True)
    ]


def printable(path: str) -> str:
    """Returns a path as text: bytes that are no UTF-8 become escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
