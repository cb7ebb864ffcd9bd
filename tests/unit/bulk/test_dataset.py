"""The data set of answers: its schema, its origin, and what an earlier run has left."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from deepfake_tools.bulk.dataset import (
    DataSet,
    MixedOutputError,
    Provenance,
    make_table,
    to_parquet,
)
from deepfake_tools.errors import OutputError
from deepfake_tools.storage import Location, StorageError

from tests.unit.bulk.conftest import rows_of

ORIGIN = Provenance("a" * 64, {"model": "acme/one", "version": "1"})
OTHER = Provenance("b" * 64, {"model": "acme/two", "version": "2"})


def row(path: str, error: str | None = None) -> dict[str, object]:
    if error is not None:
        return {"path": path, "error": error}
    return {"path": path, "margin": 0.5, "fake_probability": 0.62, "label": "FAKE", "faces": []}


@pytest.fixture
def dataset(tmp_path: Path) -> DataSet:
    found = DataSet(Location(None, str(tmp_path / "scores")))
    found.place.make_folder()
    return found


def add(
    dataset: DataSet, number: int, *rows: dict[str, object], origin: Provenance = ORIGIN
) -> None:
    dataset.name_part(1, number).write(to_parquet(make_table(rows, origin)))


def test_a_part_says_what_it_is_of(dataset: DataSet) -> None:
    add(dataset, 0, row("a.png"))
    schema = pq.read_schema(dataset.parts()[0].path)
    assert json.loads(schema.metadata[b"clip_deepfake"]) == {
        "archive_sha256": "a" * 64,
        "detector": {"model": "acme/one", "version": "1"},
        "columns_version": 1,
    }
    columns = "path margin fake_probability label decision faces error true_label"
    assert schema.names == columns.split()


def test_answers_of_another_archive_are_not_mixed_in(dataset: DataSet) -> None:
    add(dataset, 0, row("a.png"))
    for resume in (False, True):
        with pytest.raises(MixedOutputError) as failure:
            dataset.check(OTHER, resume=resume)
        assert "acme/one version 1, archive aaaaaaaaaaaa" in str(failure.value)
        assert "acme/two version 2, archive bbbbbbbbbbbb" in str(failure.value)


def test_an_output_in_use_takes_a_resumed_run_alone(dataset: DataSet) -> None:
    dataset.check(ORIGIN, resume=False)
    add(dataset, 0, row("a.png"))
    with pytest.raises(MixedOutputError, match="--resume goes on with it"):
        dataset.check(ORIGIN, resume=False)
    dataset.check(ORIGIN, resume=True)


def test_what_is_no_answer_is_not_written_among(dataset: DataSet) -> None:
    folder = Path(dataset.place.path)
    (folder / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(MixedOutputError, match=r"holds holiday\.jpg"):
        dataset.check(ORIGIN, resume=True)
    (folder / "holiday.jpg").unlink()
    pq.write_table(make_table([row("a")], ORIGIN).replace_schema_metadata(), folder / "p.parquet")
    (folder / "p.parquet").rename(folder / "part-0001-000000.parquet")
    with pytest.raises(MixedOutputError, match="does not say which archive"):
        dataset.check(ORIGIN, resume=True)
    (folder / "part-0001-000000.parquet").write_bytes(b"cut off")
    with pytest.raises(StorageError, match=r"part-0001-000000\.parquet cannot be read"):
        dataset.check(ORIGIN, resume=True)
    with pytest.raises(OutputError, match="it is a file"):
        DataSet(Location(None, str(folder / "part-0001-000000.parquet"))).check(
            ORIGIN, resume=False
        )


def test_passing_errors_are_taken_out_and_others_stay(dataset: DataSet) -> None:
    rows = [row("a"), row("b", "internal_error"), row("c", "not_an_image"), row("d")]
    add(dataset, 0, *rows)
    add(dataset, 1, row("e", "connection_lost"), row("f"))
    answered = dataset.answered()
    assert (answered.again, answered.sessions, len(answered.names)) == (2, 1, 4)
    assert answered.names.holds(["a", "b", "c", "d", "e", "f"]).tolist() == [
        *(True, False, True, True),
        *(False, True),
    ]
    assert rows_of(Path(dataset.place.path)).keys() == {"a", "c", "d", "f"}
    dataset.check(ORIGIN, resume=True)


def test_what_was_being_written_is_no_part(dataset: DataSet) -> None:
    add(dataset, 0, row("a"))
    folder = Path(dataset.place.path)
    (folder / ".part-0001-000001.parquet.7.partial").write_bytes(b"cut")
    (folder / "_plan").mkdir()
    dataset.check(ORIGIN, resume=True)
    assert [part.name for part in dataset.parts()] == ["part-0001-000000.parquet"]


def test_a_part_that_cannot_be_written_leaves_nothing(dataset: DataSet) -> None:
    folder = Path(dataset.place.path)
    with pytest.raises(OutputError, match="cannot write"):
        (Location(None, str(folder / "none")) / "part").write(b"x")
    assert list(folder.iterdir()) == []
