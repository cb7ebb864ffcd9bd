"""What tests of single parts share: a card, the builder, and the client as a person runs it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from clip_deepfake.card import (
    Card,
    EncoderConfig,
    HeadCard,
    Limits,
    ModelSource,
    SelfTest,
)
from clip_deepfake.preprocessing import squash

from tests.unit.client_runs import Client, client_in

if TYPE_CHECKING:
    from tests.building import Builder


@pytest.fixture
def small_card() -> Card:
    """The card of a detector of a few layers; its digests and logits are made up."""
    return Card(
        schema=1,
        name="small",
        version="1",
        model=ModelSource("small", None, None, "model.safetensors", "0" * 64),
        encoder=EncoderConfig(64, 96, 3, 4, 48, 16, "quick_gelu", 1e-5, 24),
        head=HeadCard("untrained", "for tests", "pooler_output", False, 2, 1, 0.5),
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


@pytest.fixture
def client(tmp_path: Path) -> Client:
    """Runs client.py in a folder of its own, with a key file there."""
    return client_in(tmp_path)
