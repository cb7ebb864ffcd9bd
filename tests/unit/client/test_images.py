import os
from pathlib import Path

import pytest
from deepfake_tools import extras, image_files
from deepfake_tools.client.images import Collection, CollectionError, collect
from deepfake_tools.labels import LabelError


@pytest.fixture(autouse=True)
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`data` with real and fake images, a hidden one, and a file that is none."""
    monkeypatch.chdir(tmp_path)
    for name in ("real/2.png", "real/10.JPG", "fake/sd/1.webp", "fake/.hidden.png", "fake/x.md"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def found(collection: Collection) -> list[tuple[str, int | None, str]]:
    return [(image.path, image.label, image.folder) for image in collection.images]


WHOLE = [
    ("data/fake/sd/1.webp", 1, "fake/sd"),
    ("data/real/10.JPG", 0, "real"),
    ("data/real/2.png", 0, "real"),
]


@pytest.mark.parametrize("argument", ["data", "data/", "./data", "data/**/*.*"])
def test_a_folder_and_a_pattern_are_looked_through_in_sorted_order(argument: str):
    assert found(collect([argument])) == WHOLE


def test_a_pattern_takes_the_images_that_it_matches_and_those_of_folders():
    assert found(collect(["data/*/*.png"])) == [("data/real/2.png", 0, "real")]
    assert found(collect(["data/f*"])) == [("data/fake/sd/1.webp", 1, "fake/sd")]


def test_a_folder_with_images_is_not_gone_below(tree: Path):
    (tree / "data" / "top.png").touch()
    collection = collect(["data"])
    assert found(collection) == [("data/top.png", None, "")]
    assert collection.shallow == ("data",)


def test_a_list_is_relative_to_its_own_folder(tree: Path):
    (tree / "data" / "list.txt").write_text("real\n\nfake/sd/1.webp\nreal/2.png\n")
    assert found(collect(["data/list.txt"])) == WHOLE


def test_images_named_by_themselves_stay_in_their_order():
    collection = collect(["data/real/2.png", "missing.png", "data/real/10.JPG"])
    assert [image.path for image in collection.images] == [
        "data/real/2.png",
        "missing.png",
        "data/real/10.JPG",
    ]
    assert collection.named
    assert not collect(["data", "missing.png"]).named


def test_labels_come_from_below_the_folder_that_holds_everything_given(tree: Path):
    apart = collect([str(tree / "data" / "real"), str(tree / "data" / "fake")])
    assert [image.label for image in apart.images] == [0, 0, 1]
    assert [image.label for image in collect(["data/real"]).images] == [None, None]
    assert [image.label for image in collect(["data/real/2.png"]).images] == [None]


def test_an_image_that_is_named_twice_is_there_once(tree: Path):
    collection = collect(["data/real/2.png", str(tree / "data" / "real"), "data/fake/../real"])
    assert [Path(image.path).name for image in collection.images] == ["2.png", "10.JPG"]
    assert collection.repeated == 3


def test_names_that_disagree_are_refused(tree: Path):
    (tree / "data" / "real").rename(tree / "data" / "fake" / "real")
    with pytest.raises(LabelError, match=r"data/fake/real stands for real, and .*data/fake for"):
        collect(["data"])


def test_a_table_tells_each_folder_with_its_label_and_count(tree: Path):
    for name in ("RealVideo-FakeAudio/7/1.png", "fake/RealVisXL_V4/1.png", "other/9/1.png"):
        (tree / "data" / name).parent.mkdir(parents=True)
        (tree / "data" / name).touch()
    assert collect(["data"]).labelled.lines() == [
        "FOLDER               LABEL                     IMAGES",
        "RealVideo-FakeAudio  none: the name says both       1",
        "fake                 FAKE                           2",
        "other                none                           1",
        "real                 REAL                           2",
    ]
    (tree / "l.csv").write_text("path,label\ndata/real/2.png,fake\n")
    rows = [line.split() for line in collect(["data/real"], tree / "l.csv").labelled.lines()]
    assert rows[1:] == [[".", "FAKE", "1"], [".", "none", "1"]]


def test_the_table_of_many_folders_is_short_and_complete(tree: Path):
    for number in range(40):
        folder = tree / "data" / f"{number % 2}_{('real', 'fake')[number % 2]}_{number}"
        folder.mkdir()
        (folder / "1.png").touch()
    lines = collect(["data"]).labelled.lines()
    assert len(lines) == 1 + 20 + 2
    assert sum(int(line.split()[-1]) for line in lines[1:]) == 43
    assert lines[-1].split()[:3] == ["(22", "more", "rows)"]


def test_what_a_worker_decodes_is_taken_whatever_its_ending(tree: Path):
    endings = ["jfif", "JPE", "gif", "dib", "tif", "png"]
    for ending in endings:
        (tree / "data" / "real" / f"x.{ending}").touch()
    found = {Path(image.path).name for image in collect(["data/real"]).images}
    assert found >= {f"x.{ending}" for ending in endings}


def test_other_files_are_counted_by_their_endings(tree: Path):
    for name in ("a.svg", "b.SVG", "c", "sub/d.svg"):
        (tree / "data" / "real" / "sub").mkdir(exist_ok=True)
        (tree / "data" / "real" / name).touch()
    (tree / "data" / "real" / "sub" / "e.png").touch()
    said = "5 files have another ending than an image and are left out (.svg 3, no ending 1, .md 1)"
    for argument in ("data", "data/**/*"):
        assert list(collect([argument]).left_out.notes()) == [said]
    (tree / "only").mkdir()
    (tree / "only" / "a.svg").touch()
    with pytest.raises(CollectionError, match=r"1 file has another ending .* \(\.svg 1\)"):
        collect(["only"])


def test_heic_is_taken_where_it_can_be_read(tree: Path):
    (tree / "data" / "real" / "a.HEIC").touch()
    (tree / "data" / "fake" / "b.heif").touch()
    collection = collect(["data"])
    assert {"a.HEIC", "b.heif"} <= {Path(image.path).name for image in collection.images}
    assert not [note for note in collection.left_out.notes() if "HEIC" in note]


def test_heic_is_left_out_elsewhere_with_what_to_install(
    tree: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(extras.HEIC, "pillow_heif_that_is_missing", "pillow-heif")
    monkeypatch.setattr(image_files, "heic_fault", image_files.heic_fault.__wrapped__)
    (tree / "data" / "real" / "a.HEIC").touch()
    (tree / "data" / "fake" / "b.heic").touch()
    for argument in ("data", "data/**/*"):
        collection = collect([argument])
        assert not {Path(i.path).name for i in collection.images} & {"a.HEIC", "b.heic"}
        first, remedy = collection.left_out.notes()
        assert "(.heic 2" in first
        assert remedy == "reading HEIC needs pillow-heif: pip install 'clip-deepfake[heic]'"
    # Named by itself it is asked about all the same: the worker may read it.
    assert len(collect(["data/real/a.HEIC"]).images) == 1


def test_what_is_no_regular_file_is_counted_and_never_taken(tree: Path):
    os.mkfifo(tree / "data" / "real" / "f.jpg")
    (tree / "data" / "real" / "gone.jpg").symlink_to(tree / "nowhere")
    (tree / "data" / "real" / "link.jpg").symlink_to(tree / "data" / "real" / "2.png")
    for argument in ("data", "data/*/*.*"):
        collection = collect([argument])
        names = {Path(image.path).name for image in collection.images}
        assert names >= {"2.png", "link.jpg"}
        assert not names & {"f.jpg", "gone.jpg"}
        assert collection.left_out.irregular == 2
        assert "2 with an image's ending left out" in "".join(collection.left_out.notes())


@pytest.mark.parametrize(
    "content",
    [
        "real\r\nfake/sd/1.webp\r\n".encode("utf-16"),
        b"\xfe\xff" + "real\nfake/sd/1.webp".encode("utf-16-be"),
        b"real\0fake/sd/1.webp\0",
        b"real\0fake/sd/1.webp",
        b"\xef\xbb\xbfreal\nfake/sd/1.webp",
    ],
)
def test_a_list_is_read_as_windows_and_find_write_it(tree: Path, content: bytes):
    (tree / "data" / "list.txt").write_bytes(content)
    assert found(collect(["data/list.txt"])) == WHOLE


def test_a_list_with_nuls_keeps_line_breaks_and_blanks_of_a_name(tree: Path):
    (tree / "data" / "real" / "a\nb .png").touch()
    (tree / "list.txt").write_bytes(b"data/real/a\nb .png\0")
    assert [image.path for image in collect(["list.txt"]).images] == ["data/real/a\nb .png"]


@pytest.mark.parametrize(
    "content",
    [
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)),
        b"\xff\xd8\xff\xe0\x10JFIF\x01",
        b"a.png\0\0b.png\0",
        "real\n".encode("utf-16-le"),
        b"\xff\xfea",
        bytes(64),
    ],
)
def test_a_binary_file_is_no_list(tree: Path, content: bytes):
    (tree / "binary.txt").write_bytes(content)
    with pytest.raises(CollectionError, match=r"the list binary\.txt cannot be read: it "):
        collect(["binary.txt"])


def test_a_list_that_is_a_fifo_is_refused_and_not_waited_for(tree: Path):
    os.mkfifo(tree / "list.txt")
    with pytest.raises(CollectionError, match=r"list\.txt cannot be read: it is a FIFO"):
        collect(["list.txt"])


def test_a_file_of_labels_replaces_the_directories(tree: Path):
    (tree / "l.csv").write_text("path,label\ndata/real/2.png,fake\ndata/gone.png,real\n")
    collection = collect(["data"], labels=tree / "l.csv")
    assert [image.label for image in collection.images] == [None, None, 1]
    assert collection.not_found == 1


def test_a_sample_is_sorted_and_depends_on_the_seed_alone(tree: Path):
    for number in range(100):
        (tree / "data" / "real" / f"{number:03}.png").touch()
    samples = [collect(["data"], limit=20, seed=seed).images for seed in (0, 0, 1)]
    assert samples[0] == samples[1] != samples[2]
    paths = [image.path for image in samples[0]]
    assert paths == sorted(paths)
    assert len(set(paths)) == 20
    assert len(collect(["data"], limit=1000).images) == 103


def test_the_digest_knows_paths_labels_and_their_order(tree: Path):
    (tree / "l.csv").write_text("path,label\ndata/real/2.png,fake\n")
    runs = [
        collect(["data"]),
        collect(["data"], labels=tree / "l.csv"),
        collect(["data/real/2.png", "data/real/10.JPG"]),
        collect(["data/real/10.JPG", "data/real/2.png"]),
    ]
    assert len({run.digest for run in runs}) == len(runs)
    assert collect(["data"]).digest == runs[0].digest


def test_links_to_folders_are_followed_and_circles_left(tree: Path):
    (tree / "data" / "real" / "2.png").unlink()
    (tree / "data" / "real" / "10.JPG").unlink()
    (tree / "data" / "real" / "again").symlink_to(tree / "data")
    (tree / "elsewhere").mkdir()
    (tree / "elsewhere" / "7.bmp").touch()
    (tree / "data" / "real" / "linked").symlink_to(tree / "elsewhere")
    assert ("data/real/linked/7.bmp", 0, "real/linked") in found(collect(["data"]))


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("empty", "there is no image (.jpg, .jpeg, .jpe, .jfif"),
        ("nothing*.png", "the pattern nothing*.png matches no image"),
        ("missing.txt", "the list missing.txt cannot be read: No such file"),
        ("empty.txt", "the list empty.txt names no image"),
    ],
)
def test_what_holds_no_images_is_named(tree: Path, argument: str, words: str):
    (tree / "empty").mkdir()
    (tree / "empty.txt").touch()
    with pytest.raises(CollectionError) as caught:
        collect([argument])
    assert words in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_is_named(tree: Path):
    (tree / "data" / "real").chmod(0)
    with pytest.raises(CollectionError, match="data/real cannot be read"):
        collect(["data"])
    (tree / "data" / "real").chmod(0o700)


def test_a_name_that_is_not_utf8_is_collected(tree: Path):
    (tree / "data" / "real" / "n\udcff.png").touch()
    assert "data/real/n\udcff.png" in [image.path for image in collect(["data"]).images]
    assert collect(["data"]).digest
