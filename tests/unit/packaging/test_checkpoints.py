"""Every row of the table of families: built, loaded as a worker does, and compared."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_deepfake.detector import Detector
from clip_deepfake.loading import load_detector
from clip_deepfake.verdicts import Verdict
from deepfake_tools.packaging.builder import Built
from deepfake_tools.packaging.checkpoints.families import FAMILIES, Family
from deepfake_tools.packaging.presets import PRESETS
from PIL import Image

from tests.building import Builder
from tests.portraits import encode, photograph
from tests.published import ROWS
from tests.reference_alignment import reference_crop

# Larger and smaller than the encoder's 32 pixels, odd and even, on one side or both.
SIZES = [(120, 80), (33, 47), (32, 32), (20, 15), (21, 90), (90, 21), (35, 36)]

TURNED: dict[str, dict[str, Any]] = {
    "jpg": {"quality": 95, "subsampling": 0},
    "png": {},
    "webp": {"lossless": True},
    "tif": {},
}
"""Formats that say how they are to be turned, and how to write them."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Noise of many sizes: nothing in it forgives a shifted or smoothed pixel."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for width, height in SIZES:
        noise = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
        paths.append(folder / f"{width}x{height}.png")
        Image.fromarray(noise).save(paths[-1])
    noise = np.random.default_rng(9).integers(0, 256, (60, 90, 3), np.uint8)
    for ending, settings in TURNED.items():
        paths.append(folder / f"turned.{ending}")
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by 90 degrees clockwise
        Image.fromarray(noise).save(paths[-1], exif=exif, **settings)
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


CUT_AT = {"DF40 clip": 256, "DeepfakeBench clip": 256}
"""DeepfakeBench's preprocess.py: `res=256`. The others' demos have 224, or align nothing."""


@pytest.mark.parametrize(
    "title", ["DeepfakeBench's clip", "Effort (ICML 2025), as DeepfakeBench saves it"]
)
def test_faces_are_cut_out_at_the_size_that_the_family_was_trained_on(
    title: str, builder: Builder, tmp_path: Path, landmarks: Path
) -> None:
    published = ROWS[title](tmp_path / "published")
    image = photograph(500, 600, [(21, 150, 100, 280)])
    built = builder(*published.arguments, "--landmark-model", landmarks)
    side = CUT_AT.get(str(built.card.head.family), 224)
    crop = reference_crop(image, str(landmarks), size=side)
    assert crop is not None
    (tmp_path / "crop.png").write_bytes(encode(crop))
    (verdict,) = unpacked(built, tmp_path / "unpacked").judge([encode(image)])
    assert isinstance(verdict, Verdict), verdict
    with torch.inference_mode():
        logits = published.logits(tmp_path / "crop.png")
    assert verdict.logits == pytest.approx(logits.tolist(), abs=2e-5)
    assert built.card.short()["face_side"] == side


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.title)
def test_a_familys_crops_have_its_size_without_an_aligner_too(family: Family) -> None:
    recipe = PRESETS[family.preset](224)
    assert recipe.face_side == CUT_AT.get(family.name, 224)
