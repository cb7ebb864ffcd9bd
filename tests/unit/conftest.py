"""What tests of single parts share: a card, the builder, and the client as a person runs it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from clip_deepfake.card import (
    Card,
    EncoderCard,
    HeadCard,
    Limits,
    ModelSource,
    SelfTest,
)
from clip_deepfake.preprocessing import squash

from tests.forking import Fork
from tests.unit.client_runs import Client, client_in

if TYPE_CHECKING:
    from deepfake_tools.packaging.builder import Built

    from tests.building import Builder


@pytest.fixture
def small_card() -> Card:
    """The card of a detector of a few layers; its digests and logits are made up."""
    return Card(
        schema=1,
        name="small",
        version="1",
        model=ModelSource("small", None, None, "model.safetensors", "0" * 64),
        encoder=EncoderCard(
            "CLIPVisionModelWithProjection",
            {"model_type": "clip_vision_model", "hidden_size": 64},
            48,
            {"pooler_output": 64, "image_embeds": 24},
            10_000_000,
        ),
        head=HeadCard("untrained", "for tests", "pooler_output", False, 2, (1,), 0.5),
        preprocessing=squash(48),
        precision="float32",
        limits=Limits(),
        files={"encoder.safetensors": "0" * 64},
        self_test=SelfTest([0.0, 0.0], 1e-3),
        built_with={"torch": "0"},
    )


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    """The builder, in this process."""
    # Later than this file: it reads the Hub's address once, when it is first imported.
    from tests.building import Builder

    return Builder(tmp_path / "store")


@pytest.fixture(scope="session")
def tinted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 60 images in real/ and 60 in fake/."""
    from tests.tinted import write_images

    folder = tmp_path_factory.mktemp("tinted")
    write_images(folder, folders=6)
    return folder


@dataclass(frozen=True)
class Pair:
    """One detector in two precisions.

    Attributes:
        int8: as the builder tells of it.
        int8_folder: where its archive is unpacked.
        float32_folder: where the float32 archive is unpacked.
        notes: what the builder of the first reported.
    """

    int8: Built
    int8_folder: Path
    float32_folder: Path
    notes: list[str]


@pytest.fixture(scope="session")
def pair(small_clip: Path, tinted: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The small CLIP under an untrained head, quantised on tinted images, and as it was."""
    from tests.building import Builder, unpack

    folder = tmp_path_factory.mktemp("pair")
    builder = Builder(folder / "store")
    float32 = builder("--model", small_clip)
    int8 = builder("--model", small_clip, "--precision", "int8", "--calibration", tinted)
    return Pair(int8, unpack(int8, folder / "8"), unpack(float32, folder / "32"), builder.notes)


@pytest.fixture(scope="session")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fork]:
    """Runs client.py; what it imports, and what it imports for folders, is there already."""
    libraries = ("cv2", "jinja2", "matplotlib.figure", "numpy", "PIL.Image", "sklearn.metrics")
    with Fork(tmp_path_factory.mktemp("clients"), "client", *libraries) as fork:
        yield fork


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fork]:
    """Runs commands that build and train; what they import is there already."""
    modules = (
        "train",
        "deepfake_tools.packaging.builder",
        "deepfake_tools.training.tuning",
        "openvino.tools.ovc",
    )
    folder = tmp_path_factory.mktemp("commands")
    with Fork(folder, *modules, home=folder / "home") as fork:
        yield fork


@pytest.fixture
def client(tmp_path: Path, clients: Fork) -> Client:
    """Runs client.py in a folder of its own, with a key file there."""
    return client_in(tmp_path, clients)
