import subprocess
import sys
from pathlib import Path

import pytest
from clip_deepfake.labels import LabelError, folder_label, read_labels


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("real/1.png", 0),
        ("Celeb-REAL/id0_0001/1.png", 0),
        ("original_sequences/youtube/c23/frames/000/1.png", 0),
        ("imagenet/nature/1.png", 0),
        ("fake/1.png", 1),
        ("Deepfakes/c23/000_003/1.png", 1),
        ("Celeb-synthesis/1.png", 1),
        ("FaceSwap/1.png", 1),
        ("manipulated_sequences/NeuralTextures/1.png", 1),
        ("midjourney/ai/1.png", 1),
        ("midjourney/AI/1.png", 1),
        # The nearest one with a telling name wins, whatever stands above it.
        ("fake/real/1.png", 0),
        ("real/fake/1.png", 1),
        ("real/fake/video_17/1.png", 1),
        ("real_and_fake/real/1.png", 0),
        # `ai` counts as a whole name only.
        ("aim/1.png", None),
        ("train/paintings/1.png", None),
        ("real/aid/1.png", 0),
        # The image's own name says nothing.
        ("holiday/fake.png", None),
        ("1.png", None),
    ],
)
def test_the_directories_tell_the_label(path: str, label: int | None) -> None:
    root = Path("/data/fake/real_and_fake")
    assert folder_label(root / path, root) == label


@pytest.mark.parametrize("name", ["real_and_fake", "Unrealistic-Synthesis", "faceswap_originals"])
def test_a_name_that_stands_for_both_is_an_error_that_names_it(name: str) -> None:
    root = Path("data")
    with pytest.raises(LabelError, match=f"^data/{name}: the name stands for real and for fake"):
        folder_label(root / name / "video" / "1.png", root)


def test_an_image_outside_the_root_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'real/1.png' is not in the subpath of"):
        folder_label(Path("real/1.png"), Path("data"))


def test_a_csv_gives_labels_relative_to_itself(tmp_path: Path) -> None:
    folder = tmp_path / "lists"
    folder.mkdir()
    file = folder / "labels.csv"
    file.write_text(
        'path,label\na.png,0\n"sub/b, c.png",1\n../d.png,REAL\n/abs/e.png,fake\na.png, real\n',
        encoding="utf-8-sig",
    )
    assert read_labels(file) == {
        folder / "a.png": 0,
        folder / "sub" / "b, c.png": 1,
        tmp_path / "d.png": 0,
        Path("/abs/e.png"): 1,
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the header is ''; it must be 'path,label'"),
        (b"path;label\na.png;0\n", "the header is 'path;label'"),
        (b"label,path\n0,a.png\n", "the header is 'label,path'"),
        (b"path,label\na.png,0\nb.png,2\n", "line 3: '2' is no label; use 0, real, 1, fake"),
        (b"path,label\na.png\n", "line 2: there must be a path and a label"),
        (b"path,label\n,1\n", "line 2: there must be a path and a label"),
        (b"path,label\na,b.png,1\n", "line 2: there must be a path and a label"),
        (b"path,label\na.png,0\n./a.png,1\n", "line 3: './a.png' has the other label"),
        (b"path,label\n\xff.png,1\n", "is no CSV file in UTF-8"),
        (b'path,label\n"a.png,1\n', "is no CSV file in UTF-8: unexpected end of data"),
    ],
)
def test_a_csv_that_is_off_is_refused_naming_the_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    file = tmp_path / "labels.csv"
    file.write_bytes(content)
    with pytest.raises(LabelError) as caught:
        read_labels(file)
    assert str(file) in str(caught.value)
    assert message in str(caught.value)


def test_a_missing_csv_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"labels\.csv cannot be read: No such file"):
        read_labels(tmp_path / "labels.csv")


def test_the_module_needs_no_library() -> None:
    code = (
        "import sys; import clip_deepfake.labels; "
        "found = {name.partition('.')[0] for name, module in sys.modules.items() if module}; "
        "print(*found - sys.stdlib_module_names)"
    )
    found = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(Path(__file__).parents[2] / "handler")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(found.stdout.split()) <= {"clip_deepfake", "__main__"}
