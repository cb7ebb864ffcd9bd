"""What a worker says whose transformers is missing, or does not know the archive's model."""

import sys
from pathlib import Path

import msgspec
import pytest
from clip_deepfake.card import Card, read_card
from clip_deepfake.errors import LoadError
from clip_deepfake.loading import load_detector
from deepfake_tools.packaging.builder import Built

from tests.building import Builder, unpack
from tests.vision_models import ENCODERS, write_model


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """An archive that computes with PyTorch."""
    folder = tmp_path_factory.mktemp("built")
    write_model(folder / "model", ENCODERS["vit"])
    return Builder(folder / "store")("--model", folder / "model", "--engine", "torch")


@pytest.fixture
def archive(built: Built, tmp_path: Path) -> Path:
    """That one, unpacked."""
    return unpack(built, tmp_path / "archive")


def write_card(archive: Path, card: Card) -> None:
    (archive / "detector.json").write_bytes(card.to_json())


def test_without_transformers_the_version_that_is_needed_is_said(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built_with = read_card(archive).built_with["transformers"]
    for name in ("clip_deepfake.torch_engine", "clip_deepfake.encoder"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(LoadError, match=f"pip install 'transformers>={built_with}'"):
        load_detector(archive)


def test_a_model_that_transformers_does_not_know_yet_names_the_version(archive: Path) -> None:
    """As an archive of a later transformers' model looks to an earlier one."""
    card = read_card(archive)
    encoder = msgspec.structs.replace(card.encoder, architecture="ViT9Model")
    built_with = card.built_with | {"transformers": "9.1.0"}
    write_card(archive, msgspec.structs.replace(card, encoder=encoder, built_with=built_with))
    with pytest.raises(
        LoadError, match=r"transformers 5\.\S+ has no model 'ViT9Model'; .* transformers 9\.1\.0"
    ):
        load_detector(archive)


def test_settings_that_transformers_cannot_follow_name_the_version(archive: Path) -> None:
    card = read_card(archive)
    config = card.encoder.config | {"hidden_act": "gelu_of_tomorrow"}
    encoder = msgspec.structs.replace(card.encoder, config=config)
    write_card(archive, msgspec.structs.replace(card, encoder=encoder))
    with pytest.raises(LoadError, match=r"gelu_of_tomorrow.*was built with transformers 5\."):
        load_detector(archive)


def test_a_class_that_is_no_model_is_refused(archive: Path) -> None:
    card = read_card(archive)
    encoder = msgspec.structs.replace(card.encoder, architecture="pipeline")
    write_card(archive, msgspec.structs.replace(card, encoder=encoder))
    with pytest.raises(LoadError, match="has no model 'pipeline'"):
        load_detector(archive)
