"""Every row of the table of families: built, loaded as a worker does, and compared."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_deepfake.detector import Detector, load_detector
from clip_deepfake.verdicts import Verdict
from deepfake_tools.builder import Built
from deepfake_tools.checkpoints.families import FAMILIES
from PIL import Image

from tests.building import Builder
from tests.published import ROWS

# Larger and smaller than the encoder's 32 pixels, odd and even, on one side or both.
SIZES = [(120, 80), (33, 47), (32, 32), (20, 15), (21, 90), (90, 21), (35, 36)]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Noise of many sizes: nothing in it forgives a shifted or smoothed pixel."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for width, height in SIZES:
        noise = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
        paths.append(folder / f"{width}x{height}.png")
        Image.fromarray(noise).save(paths[-1])
    return paths


def unpacked(built: Built, folder: Path) -> Detector:
    with zipfile.ZipFile(built.path) as archive:
        archive.extractall(folder)
    return load_detector(folder)


def test_every_row_of_the_table_is_tested() -> None:
    assert [family.title for family in FAMILIES] == list(ROWS)


@pytest.mark.parametrize("title", ROWS)
def test_logits_are_those_of_the_familys_own_code(
    title: str, builder: Builder, tmp_path: Path, pictures: list[Path]
) -> None:
    published = ROWS[title](tmp_path / "published")
    built = builder(*published.arguments)
    family = next(family for family in FAMILIES if family.title == title)
    assert built.card.head.description.startswith(title)
    assert (built.card.head.family, built.card.head.licence) == (family.name, family.licence)
    verdicts = unpacked(built, tmp_path / "unpacked").judge([p.read_bytes() for p in pictures])
    for picture, verdict in zip(pictures, verdicts, strict=True):
        assert isinstance(verdict, Verdict), verdict
        with torch.inference_mode():
            logits = published.logits(picture)
        probability = logits.sigmoid()[0] if len(logits) == 1 else logits.softmax(0)[1]
        assert verdict.logits == pytest.approx(logits.tolist(), abs=2e-5), picture.name
        assert verdict.fake_probability == pytest.approx(float(probability), abs=1e-5)
