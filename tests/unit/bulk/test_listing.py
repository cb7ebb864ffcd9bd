"""What a run's images are: found as the client finds them, and in stores and Parquet besides."""

import shutil
from pathlib import Path

import fsspec
import pytest
from deepfake_tools.bulk.items import SourceKind, from_table, to_table
from deepfake_tools.bulk.listing import Listing, Wanted
from deepfake_tools.bulk.parquet_rows import ColumnError, Columns
from deepfake_tools.bulk.uri_patterns import matches, split_pattern
from deepfake_tools.client.images import CollectionError, collect
from deepfake_tools.labels import LabelError
from deepfake_tools.storage import StorageError, open_place
from deepfake_tools.videos.sampling import FrameChoice

from tests.tinted_videos import write_videos
from tests.unit.bulk.conftest import write_parquet


def listed(*what: object, columns: Columns | None = None) -> Listing:
    return Listing(Wanted([str(one) for one in what], columns))


def found(*what: object, columns: Columns | None = None) -> dict[str, int | None]:
    items = list(listed(*what, columns=columns))
    assert len({item.name for item in items}) == len(items)
    return {item.name: item.label for item in items}


@pytest.fixture
def names(tinted: Path, tmp_path: Path) -> Path:
    """A list of some images, a folder and a pattern."""
    file = tmp_path / "names.txt"
    lines = [tinted / "fake/clip_00/003.png", tinted / "real/clip_01", tinted / "real/clip_0[23]/*"]
    file.write_text("\n".join(map(str, lines)))
    return file


@pytest.mark.parametrize("what", ["", "real", "*/clip_01", "**/*7.png", "fake/clip_00/003.png"])
def test_images_and_labels_are_those_that_the_client_finds(tinted: Path, what: str) -> None:
    argument = str(tinted / what)
    assert found(argument) == {i.path: i.label for i in collect([argument]).images}


def test_of_several_and_in_lists_too(tinted: Path, names: Path) -> None:
    several = [str(tinted / "real"), str(tinted / "fake" / "clip_00")]
    assert found(*several) == {i.path: i.label for i in collect(several).images}
    assert found(names) == {i.path: i.label for i in collect([str(names)]).images}


def test_frames_of_videos_are_named_and_chosen_as_the_client_does(tmp_path: Path) -> None:
    from deepfake_tools.client.videos import take_apart

    write_videos(tmp_path, 2)
    (tmp_path / "real" / "none.mp4").write_bytes(b"no video")
    taken, _ = take_apart(collect([str(tmp_path)], videos=True), FrameChoice(5))
    items = list(Listing(Wanted([str(tmp_path)], None, FrameChoice(5))))
    assert sorted(item.name for item in items) == sorted(image.path for image in taken.images)
    assert len(items) == 4 * 5 + 1
    assert [item.fault for item in items if item.kind == SourceKind.FILE] == ["broken_video"]
    assert {item.label for item in items} == {0, 1}


def test_a_store_is_gone_through_as_a_folder(tinted: Path) -> None:
    files = fsspec.filesystem("memory")
    files.put(str(tinted), "/bucket/data", recursive=True)
    files.pipe("/bucket/data/fake/notes.txt", b"no image")
    here = {name.removeprefix(f"{tinted}/"): label for name, label in found(tinted).items()}
    there = listed("memory://bucket/data")
    assert {i.name.partition("/data/")[2]: i.label for i in there} == here
    assert list(there.left_out.endings) == [".txt"]
    assert there.stores == ["memory://bucket/data"]
    some = found("memory://bucket/data/*/clip_0[12]/*.png")
    assert len(some) == 40
    with pytest.raises(CollectionError, match="no image"):
        found("memory://bucket/data/*/*.gif")
    with pytest.raises(StorageError, match="not there"):
        found("memory://bucket/none")
    files.rm("/bucket", recursive=True)


def test_what_no_library_opens_is_said() -> None:
    with pytest.raises(StorageError, match=r"sealed://bucket: neither pyarrow nor fsspec"):
        found("sealed://user:secret@bucket")
    with pytest.raises(StorageError) as failure:
        open_place("sealed://user:secret@bucket")
    assert "secret" not in str(failure.value)


def test_patterns_in_uris_leave_their_options_alone() -> None:
    assert split_pattern("s3://b/a/*.png?x=1") == ("s3://b/a?x=1", "*.png")
    assert split_pattern("s3://b/a?x=[1]") == ("s3://b/a?x=[1]", "")
    assert matches("b/a/x/y/1.png", "b/a/**/*.png")
    assert not matches("b/a/x/1.png", "b/a/*.png")


def test_rows_of_bytes_are_called_by_their_place_or_by_a_column(tmp_path: Path) -> None:
    file = write_parquet(
        tmp_path / "a.parquet",
        {"image": [b"x"] * 3, "is_fake": [0, 1, None], "title": ["a/real/1", "b/fake/2", "3"]},
    )
    by_place = found(file, columns=Columns("image", "is_fake"))
    assert by_place == {f"{file}#0": 0, f"{file}#1": 1, f"{file}#2": None}
    by_name = found(tmp_path, columns=Columns("image", name="title"))
    assert by_name == {"a/real/1": 0, "b/fake/2": 1, "3": None}


def test_rows_of_paths_are_found_from_their_files_folder(tmp_path: Path, tinted: Path) -> None:
    shutil.copytree(tinted / "real", tmp_path / "real")
    absolute = str(tinted / "fake" / "clip_00" / "003.png")
    names = ["real/clip_00/061.png", absolute, "memory://bucket/fake/1.png", None]
    write_parquet(tmp_path / "a.parquet", {"file": names})
    items = list(listed(tmp_path, columns=Columns("file")))
    assert [item.source for item in items[:2]] == [str(tmp_path / names[0]), absolute]
    assert (items[2].source, items[2].store) == ("/bucket/fake/1.png", 0)
    assert [item.label for item in items[:3]] == [0, 1, 1]
    assert items[3].fault == "unreadable"


def test_a_column_that_is_not_there_lists_those_that_are(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", {"picture": [b"x"], "n": [1]})
    for columns in (Columns("image"), Columns("picture", "label"), Columns("picture", name="x")):
        with pytest.raises(ColumnError, match=r"its columns are picture, n"):
            found(file, columns=columns)
    with pytest.raises(ColumnError, match=r"'n' is of int64: it must hold"):
        found(file, columns=Columns("n"))
    for what in (file, tmp_path):
        with pytest.raises(ColumnError, match=r"name by --column .* it has picture, n"):
            found(what)


def test_a_label_that_is_none_is_named_with_its_row(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", {"image": [b"x"] * 2, "label": ["real", "maybe"]})
    with pytest.raises(LabelError, match=r"row 1: 'maybe' is no label"):
        found(file, columns=Columns("image", "label"))


def test_what_is_no_parquet_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 is not enough")
    with pytest.raises(StorageError, match=r"a\.parquet cannot be read"):
        found(tmp_path, columns=Columns("image"))


def test_items_come_back_from_their_table(tmp_path: Path) -> None:
    odd = tmp_path / "real" / "\udcff.png"
    odd.parent.mkdir()
    odd.write_bytes(b"x")
    items = list(listed(tmp_path))
    assert items[0].name.endswith(r"/real/\xff.png")
    assert Path(items[0].source) == odd
    assert from_table(to_table(items)) == items
