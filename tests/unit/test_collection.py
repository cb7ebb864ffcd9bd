import os
from pathlib import Path

import pytest
from clip_deepfake.labels import LabelError
from deepfake_tools.collection import Collection, CollectionError, collect


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


def test_a_name_that_stands_for_both_is_refused(tree: Path):
    (tree / "data" / "real").rename(tree / "data" / "real_and_fake")
    with pytest.raises(LabelError, match="real_and_fake"):
        collect(["data"])


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
        ("empty", "there is no image (.jpg, .jpeg, .png"),
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
