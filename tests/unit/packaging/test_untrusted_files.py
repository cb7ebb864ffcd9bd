"""What people have in place of weights is named, wherever it is given."""

import bz2
import gzip
import lzma
from pathlib import Path

import pytest
import torch
from clip_deepfake.errors import LoadError
from deepfake_tools.packaging.hub import BuildError
from deepfake_tools.packaging.pickles import load_pickle
from deepfake_tools.predictor_file import count_points

from tests.building import Builder
from tests.clips import SMALL, write_repository

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)
CONTENTS = [
    pytest.param(POINTER, "Git LFS pointer .*git lfs pull", id="pointer"),
    pytest.param(b"<!DOCTYPE html><html></html>", "a web page", id="page"),
    pytest.param(bz2.compress(b"weights"), "bunzip2", id="bzip2"),
    pytest.param(gzip.compress(b"weights"), "gunzip", id="gzip"),
    pytest.param(lzma.compress(b"weights"), "unxz", id="xz"),
]


@pytest.mark.parametrize(("content", "message"), CONTENTS)
def test_in_place_of_a_predictor(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "predictor.dat"
    path.write_bytes(content)
    with pytest.raises(LoadError, match=f"predictor.dat is not the landmark.*{message}"):
        count_points(path)


@pytest.mark.parametrize(("content", "message"), CONTENTS)
def test_in_place_of_a_detectors_checkpoint(
    builder: Builder, small_clip: Path, tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "fc.pth"
    path.write_bytes(content)
    with pytest.raises(BuildError, match=f"fc.pth is not the checkpoint.*{message}"):
        builder("--model", small_clip, "--weights", path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "config.json"])
@pytest.mark.parametrize(("content", "message"), CONTENTS)
def test_in_place_of_an_encoders_files(
    builder: Builder, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    folder = write_repository(tmp_path / "model", SMALL)
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(BuildError, match=f"{name}.*{message}"):
        builder("--model", folder)


class Settings:
    """What GenD's trainer saves of its settings is a class of its own."""


def test_a_checkpoint_of_gends_trainer_needs_its_config_beside_the_weights(tmp_path: Path) -> None:
    weights = {"feature_extractor.x": torch.zeros(1), "model.linear.weight": torch.zeros(2, 1)}
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": weights, "hyper_parameters": Settings()}, path)
    with pytest.raises(BuildError, match=r"would run code.*Settings.*state_dict.*config.json"):
        load_pickle(path)
    torch.save({"state_dict": {}, "hyper_parameters": Settings()}, path)
    with pytest.raises(BuildError, match="would run code") as refused:
        load_pickle(path)
    assert "GenD" not in str(refused.value)
