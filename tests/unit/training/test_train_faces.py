"""train.py --landmark-model: a head of faces is the head of crops that were cut by hand."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from clip_deepfake.archive_files import file_digest
from clip_deepfake.faces import FaceAlignment
from deepfake_tools.packaging.heads import read_head_file
from safetensors.torch import load_file
from train import main

from tests.portraits import encode, photograph
from tests.reference_alignment import reference_crop


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 portraits in 8 folders, the fakes tinted, and one image without a face among the reals."""
    root = tmp_path_factory.mktemp("photographs")
    numbers = [number for number in range(0, 100, 2) if number % 6 != 4]
    for index in range(32):
        image = photograph(260, 300, [(numbers[index], 50, 30, 200)]).astype(int)
        kind = "fake" if index % 2 else "real"
        image += np.array([20, -10, -20]) * (kind == "fake")
        path = root / kind / f"clip_{index // 8}" / f"{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(np.clip(image, 0, 255).astype(np.uint8)))
    blank = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    (root / "real" / "clip_0" / "noise.png").write_bytes(encode(blank))
    return root


def train(data: Path, model: Path, folder: Path, *more: object) -> Path:
    output = folder / "head.safetensors"
    arguments = ["--data", data, "--model", model, "--output", output, "--cache", folder / "cache"]
    assert main([*map(str, arguments), *map(str, more)]) == 0
    return output


def cut_by_hand(photographs: Path, landmarks: Path, folder: Path) -> None:
    """Writes the reference's crops; an image without a face stays whole."""
    for path in photographs.rglob("*.png"):
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        crop = reference_crop(image, str(landmarks))
        by_hand = folder / path.relative_to(photographs)
        by_hand.parent.mkdir(parents=True, exist_ok=True)
        by_hand.write_bytes(encode(image if crop is None else crop))


def test_a_head_of_faces_is_the_head_of_crops_that_were_cut_by_hand(
    photographs: Path, small_clip: Path, landmarks: Path, tmp_path: Path
) -> None:
    options = ("--landmark-model", landmarks, "--face-detection", "exact")
    trained, tensors = read_head_file(train(photographs, small_clip, tmp_path / "a", *options))
    cut_by_hand(photographs, landmarks, tmp_path / "crops")
    expected, wanted = read_head_file(train(tmp_path / "crops", small_clip, tmp_path / "b"))
    assert trained.faces == FaceAlignment(
        landmarks.name, file_digest(landmarks), 81, scan_pixels=None
    )
    assert "dlib" in trained.history.made_with
    assert expected.faces is None
    assert trained.history.data.real == 17
    assert torch.allclose(tensors["weight"], wanted["weight"], atol=1e-5)
    assert torch.allclose(tensors["bias"], wanted["bias"], atol=1e-5)


def test_an_image_without_a_face_can_be_left_out(
    photographs: Path,
    small_clip: Path,
    landmarks: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ("--landmark-model", landmarks, "--on-no-face", "error")
    trained, _ = read_head_file(train(photographs, small_clip, tmp_path, *options))
    out, err = capsys.readouterr()
    assert "noise.png: no face was found, and only faces are judged" in err
    assert trained.history.data.real == 16
    assert f"--landmark-model {landmarks} --weights" in out


def test_features_of_whole_images_are_not_taken_for_those_of_faces(
    photographs: Path,
    small_clip: Path,
    landmarks: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ("--landmark-model", landmarks)
    for more, said in (
        ((), "33 features computed, 0 found in the cache"),
        (options, "33 features computed, 0 found in the cache"),
        (options, "0 features computed, 33 found in the cache"),
    ):
        train(photographs, small_clip, tmp_path, *more)
        assert said in capsys.readouterr().err


def test_what_is_no_predictor_is_refused(
    photographs: Path, small_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wrong.dat").write_text("Dear reader,")
    arguments = ["--data", photographs, "--model", small_clip]
    assert main([*map(str, arguments), "--landmark-model", str(tmp_path / "wrong.dat")]) == 1
    assert "wrong.dat is not a dlib shape predictor" in capsys.readouterr().err


def test_without_dlib_it_says_what_to_install(
    photographs: Path,
    landmarks: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "dlib", None)
    assert main(["--data", str(photographs), "--landmark-model", str(landmarks)]) == 1
    assert "pip install 'clip-deepfake[faces]'" in capsys.readouterr().err


def test_an_encoder_learns_from_the_crops_that_were_cut_by_hand(
    photographs: Path, small_clip: Path, landmarks: Path, tmp_path: Path
) -> None:
    """Crops are cut once, and found in the cache from then on."""
    cut_by_hand(photographs, landmarks, tmp_path / "crops")
    tuning = ["--method", "layernorm", "--epochs", "2", "--batch-size", "4", "--workers", "0"]
    faces = ["--landmark-model", str(landmarks), "--face-detection", "exact"]
    weights = []
    for name, data, more in (("a", photographs, faces), ("b", tmp_path / "crops", [])):
        words = ["--data", data, "--model", small_clip, "--cache", tmp_path / f"cache-{name}"]
        output = tmp_path / name
        assert main([*map(str, words), *tuning, *more, "--output", str(output)]) == 0
        weights.append(load_file(output / "model.safetensors"))
    trained, _ = read_head_file(tmp_path / "a" / "head.safetensors")
    assert trained.faces is not None
    assert trained.faces.sha256 == file_digest(landmarks)
    ours, expected = weights
    assert max((ours[name] - expected[name]).abs().max().item() for name in expected) < 1e-5
    used = trained.tuning.data.real + trained.tuning.data.fake
    assert len(list((tmp_path / "cache-a").glob("*.crops/*.png"))) == used
