"""Data sets as score.py writes them, and evaluate.py as a person runs it."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess

import pyarrow as pa
import pyarrow.parquet as pq

from tests import ROOT

EVALUATE = ROOT / "scripts" / "evaluate.py"
Evaluate = Callable[..., "CompletedProcess[str]"]

DETECTOR: Mapping[str, object] = {
    "model": "openai/clip-vit-base-patch32",
    "commit": None,
    "version": "1",
    "head": "trained",
    "precision": "float32",
    "engine": "openvino",
    "threshold": 0.5,
    "orientation": "opencv-5",
    "face_side": 224,
}
FACE = pa.struct(
    [
        ("box", pa.list_(pa.int32())),
        ("fake_probability", pa.float64()),
        ("prediction", pa.int8()),
        ("margin", pa.float64()),
    ]
)
SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("margin", pa.float32()),
        ("fake_probability", pa.float32()),
        ("label", pa.string()),
        ("decision", pa.string()),
        ("faces", pa.list_(FACE)),
        ("error", pa.string()),
        ("true_label", pa.string()),
    ]
)

Row = dict[str, object]


def row(path: str, fake_probability: float, true: str | None = None, **more: object) -> Row:
    """A judged image; the margin is left out, so that it is ranked by the probability."""
    label = "FAKE" if fake_probability > 0.5 else "REAL"
    known: Row = {"path": path, "fake_probability": fake_probability, "label": label}
    return known | {"true_label": true} | more


def broken(path: str, code: str = "unreadable") -> Row:
    return {"path": path, "error": code}


def write_part(
    file: Path,
    rows: Sequence[Row],
    archive: str = "a" * 64,
    detector: Mapping[str, object] = DETECTOR,
    version: int = 1,
    schema: pa.Schema = SCHEMA,
) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    said = {"archive_sha256": archive, "detector": detector, "columns_version": version}
    marked = schema.with_metadata({b"clip_deepfake": json.dumps(said).encode()})
    pq.write_table(pa.Table.from_pylist(list(rows), schema=marked), file)
    return file
