"""Images' bytes in the actor: read ahead, in order, or with a reason for each that has none."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from deepfake_tools import storage
from deepfake_tools.bulk import contents, parquet_rows
from deepfake_tools.bulk.contents import Failed, ImageReader, ahead
from deepfake_tools.bulk.items import Item, SourceKind
from deepfake_tools.bulk.parquet_rows import RowReader
from deepfake_tools.storage import Location

from tests.unit.bulk.conftest import write_parquet


@pytest.fixture
def reading() -> Iterator[ImageReader]:
    found = ImageReader(
        ("memory://bucket", "s3://b?endpoint_override=http://127.0.0.1:9"), "image", 1
    )
    yield found
    found.close()


def test_more_files_than_are_read_ahead_come_in_order(reading: ImageReader, tmp_path: Path) -> None:
    items = []
    for number in range(3 * contents.AHEAD):
        path = tmp_path / f"{number}.png"
        path.write_bytes(str(number).encode())
        items.append(Item(path.name, str(path)))
    assert [(i.name, c) for i, c in reading.read(items)] == [
        (f"{number}.png", str(number).encode()) for number in range(len(items))
    ]


def test_each_file_that_cannot_be_read_has_its_code(
    reading: ImageReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage.Location.read, "__defaults__", (100,))
    (tmp_path / "whole.png").write_bytes(b"x" * 100)
    (tmp_path / "large.png").write_bytes(b"x" * 101)
    items = [
        Item("whole", str(tmp_path / "whole.png")),
        Item("large", str(tmp_path / "large.png")),
        Item("folder", str(tmp_path)),
        Item("device", "/dev/zero"),
        Item("none", str(tmp_path / "none.png")),
        Item("broken", "clip.mp4", fault="broken_video"),
        Item("gone", "/bucket/none.png", store=0),
    ]
    found = {item.name: content for item, content in reading.read(items)}
    assert found.pop("whole") == b"x" * 100
    assert all(isinstance(content, Failed) for content in found.values())
    assert found == {
        "large": "image_too_large",
        "folder": "unreadable",
        "device": "unreadable",
        "none": "unreadable",
        "broken": "broken_video",
        "gone": "unreadable",
    }


def test_rows_come_from_any_row_group_without_going_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [None if row % 10 == 9 else f"{row}".encode() for row in range(1000)]
    file = Location(None, str(write_parquet(tmp_path / "a.parquet", {"image": images}, group=300)))
    opened = []
    original = RowReader._open
    monkeypatch.setattr(
        RowReader, "_open", lambda self, *place: (opened.append(place), original(self, *place))[0]
    )
    reader = RowReader("image")
    for row in (*range(250, 320), 650, 651, 999):
        assert reader.read(file, row) == images[row]
    assert len(opened) == 1
    assert reader.read(file, 5) == images[5]
    assert len(opened) == 2
    monkeypatch.setattr(parquet_rows, "LARGEST_FILE", 2)
    with pytest.raises(OverflowError):
        reader.read(file, 100)


def test_a_parquet_file_that_is_gone_is_a_reason_for_each_row(
    reading: ImageReader, tmp_path: Path
) -> None:
    items = [
        Item(str(n), str(tmp_path / "none.parquet"), None, SourceKind.ROW, n) for n in range(3)
    ]
    assert [content for _, content in reading.read(items)] == ["unreadable"] * 3


def test_values_are_taken_ahead_and_no_further() -> None:
    taken: list[int] = []
    enough = threading.Event()

    def values() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            if number == 4:
                enough.set()
            yield number

    read = ahead(values(), 4)
    assert next(read) == 0
    assert enough.wait(10)
    # One is yielded, four wait, and one is on its way to them.
    assert len(taken) <= 6
    assert list(read) == list(range(1, 100))


def test_an_error_comes_after_what_was_before_it() -> None:
    def values() -> Iterator[int]:
        yield 1
        raise ValueError("the second one")

    read = ahead(values())
    assert next(read) == 1
    with pytest.raises(ValueError, match="the second one"):
        next(read)


def test_whoever_stops_reading_leaves_no_thread() -> None:
    before = threading.active_count()
    read = ahead(iter(range(1000)), 2)
    assert next(read) == 0
    assert isinstance(read, Iterator)
    read.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
