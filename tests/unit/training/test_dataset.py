import os
from pathlib import Path

import pytest
from deepfake_tools.image_files import find_images
from deepfake_tools.labels import LabelError
from deepfake_tools.training.dataset import LabelledImage, TrainingError, read_dataset


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_images_are_found_at_any_depth_in_the_order_of_their_paths(tmp_path: Path) -> None:
    wanted = ["b/1.JPG", "b/2.webp", "b/c/d/3.tiff", "z.png"]
    touch(tmp_path, *reversed(wanted), "notes.txt", ".thumbs/1.png", "b/._1.JPG", "png")
    found = {str(path.relative_to(tmp_path)) for path in find_images(tmp_path)}
    assert found == set(wanted)
    assert list(find_images(tmp_path)) == list(find_images(tmp_path))


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    touch(elsewhere, "1.png")
    touch(data, "real/2.png")
    (data / "fake").symlink_to(elsewhere)
    (data / "real" / "round").symlink_to(data)
    found = [str(path.relative_to(data)) for path in find_images(data)]
    assert found == ["fake/1.png", "real/2.png"]


def test_folders_give_labels_and_the_rest_is_counted(tmp_path: Path) -> None:
    touch(tmp_path, "real/v1/1.png", "fake/v2/1.png", "other/1.png", "2.png")
    dataset = read_dataset(tmp_path, None)
    assert set(dataset.images) == {
        LabelledImage(tmp_path / "real/v1/1.png", 0),
        LabelledImage(tmp_path / "fake/v2/1.png", 1),
    }
    assert (dataset.unlabelled, dataset.not_found) == (2, 0)


def test_what_is_taken_and_what_is_not_is_told_with_its_label(tmp_path: Path) -> None:
    touch(tmp_path, "real/1.jfif", "real/2.GIF", "real/3.svg", "fake/RealVisXL_V4/1.jpe")
    touch(tmp_path, "RealVideo-FakeAudio/1.png")
    os.mkfifo(tmp_path / "fake" / "2.jpg")
    dataset = read_dataset(tmp_path, None)
    assert sorted((image.path.name, image.label) for image in dataset.images) == [
        ("1.jfif", 0),
        ("1.jpe", 1),
        ("2.GIF", 0),
    ]
    assert (dataset.unlabelled, dataset.left_out.irregular) == (1, 1)
    assert dataset.left_out.endings == {".svg": 1}
    rows = [line.split() for line in dataset.labelled.lines()]
    assert ["fake", "FAKE", "1"] in rows
    assert ["real", "REAL", "2"] in rows


def test_a_csv_alone_says_which_images(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("path,label\nb.png,1\na.png,0\n")
    dataset = read_dataset(None, file)
    assert dataset.images == (
        LabelledImage(tmp_path / "b.png", 1),
        LabelledImage(tmp_path / "a.png", 0),
    )


def test_a_csv_beside_a_folder_overrules_its_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "data/real/1.png", "data/real/2.png")
    (tmp_path / "labels.csv").write_text("path,label\ndata/real/1.png,fake\nelsewhere.png,real\n")
    monkeypatch.chdir(tmp_path)
    dataset = read_dataset(Path("data"), Path("labels.csv"))
    assert dataset.images == (LabelledImage(Path("data/real/1.png"), 1),)
    assert (dataset.unlabelled, dataset.not_found) == (1, 1)


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="nowhere is no folder"):
        read_dataset(tmp_path / "nowhere", None)
    with pytest.raises(TrainingError, match="give --data DIR"):
        read_dataset(None, None)
    touch(tmp_path, "real/x/fake/1.png")
    with pytest.raises(LabelError, match="real/x/fake for fake"):
        read_dataset(tmp_path, None)


def test_a_folder_that_cannot_be_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "real/1.png", "secret/1.png")
    scandir = os.scandir

    def guarded(path: str) -> object:
        if Path(path).name == "secret":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(PermissionError, match="secret"):
        list(find_images(tmp_path))
