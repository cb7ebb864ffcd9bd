import os
import subprocess
import sys
from pathlib import Path

import pytest
from deepfake_tools.labels import LabelError, folder_label, read_folder, read_labels

from tests import ROOT


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
        # FaceForensics++ and Celeb-DF as they are unpacked.
        ("original_sequences/actors/c40/videos/01__exit_phone_room/1.png", 0),
        ("manipulated_sequences/DeepFakeDetection/c23/1.png", 1),
        ("manipulated_sequences/Face2Face/c23/1.png", 1),
        ("Face2Face/1.png", 1),
        ("NeuralTextures_c23/1.png", 1),
        ("face-swap/1.png", 1),
        ("YouTube-real/1.png", 0),
        # UniversalFakeDetect's, with a generator's name below.
        ("progan/car/0_real/1.png", 0),
        ("1_fake/RealVisXL_V4/1.png", 1),
        ("1_fake/Real-ESRGAN_x4/1.png", 1),
        ("1_fake/Realistic_Vision_V5.1/1.png", 1),
        ("fake/unreal_engine/1.png", 1),
        ("real/ai_lab/1.png", 0),
        # Words within other words say nothing.
        ("Surrealism/1.png", None),
        ("photosynthesizer/1.png", None),
        ("Aboriginal/1.png", None),
        ("signature/1.png", None),
        ("stable_diffusion_v_1_4/imagenet_ai_0419_sdv4/train/nature/1.png", 0),
        ("stable_diffusion_v_1_4/imagenet_ai_0419_sdv4/train/ai/1.png", 1),
        # Cases and punctuation part words.
        ("trainFake/1.png", 1),
        ("CelebDFReal/1.png", 0),
        ("REALImages/1.png", 0),
        ("00001real/1.png", 0),
        ("my.fake.faces/1.png", 1),
        # What says both gives way to what says one.
        ("real_vs_fake/real-vs-fake/train/real/1.png", 0),
        ("FakeAVCeleb/real/1.png", 0),
        ("RealVideo-FakeAudio/African/men/1.png", None),
        ("real_and_fake/real/1.png", 0),
        ("real/original_size/1.png", 0),
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


@pytest.mark.parametrize(
    ("path", "real", "fake"),
    [
        ("fake/real/1.png", "fake/real", "fake"),
        ("real/fake/video_17/1.png", "real", "real/fake"),
        ("FaceSwap/c23/original/1.png", "FaceSwap/c23/original", "FaceSwap"),
        ("real_and_fake/0_real/x/Deepfakes/1.png", "real_and_fake/0_real", None),
    ],
)
def test_names_on_one_path_that_disagree_are_refused_with_both(
    path: str, real: str, fake: str | None
) -> None:
    root = Path("/data/real")
    with pytest.raises(LabelError) as caught:
        folder_label(root / path, root)
    fake_folder = root / (fake or "real_and_fake/0_real/x/Deepfakes")
    assert f"{root / real} stands for real, and {fake_folder} for fake" in str(caught.value)


@pytest.mark.parametrize("name", ["real_and_fake", "RealVideo-FakeAudio", "FaceSwap_originals"])
def test_a_name_that_stands_for_both_gives_no_label_and_is_named(name: str) -> None:
    reading = read_folder(Path("data", name, "video"), Path("data"))
    assert reading.label is None
    assert reading.is_ambiguous
    assert reading.source == Path(name)


def test_an_image_outside_the_root_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'real' is not in the subpath of"):
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
        (b"path,label\na\0.png,1\n", "line 2: there must be a path and a label"),
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


def test_a_csv_that_is_a_fifo_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "labels.csv")
    with pytest.raises(LabelError, match="it is a FIFO and no regular file"):
        read_labels(tmp_path / "labels.csv")


def test_the_module_needs_no_library() -> None:
    code = (
        "import sys; import deepfake_tools.labels; "
        "found = {name.partition('.')[0] for name, module in sys.modules.items() if module}; "
        "print(*found - sys.stdlib_module_names)"
    )
    found = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(ROOT / "scripts")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(found.stdout.split()) <= {"deepfake_tools", "__main__"}
