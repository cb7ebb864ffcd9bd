"""Whole archives of the four published architectures, full size, beside transformers.

Random weights, since no others are at hand; minutes and gigabytes: `make equality` runs it.
"""

import random
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from clip_deepfake.card import HEAD_FILE, read_card
from clip_deepfake.loading import load_detector
from clip_deepfake.preprocessing import CLIP_MEAN, CLIP_STD
from clip_deepfake.verdicts import Verdict
from deepfake_tools.demonstration.random_clip import VISION_SHAPES
from deepfake_tools.image_files import find_images
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPVisionModelWithProjection, logging

from tests.building import Builder, unpack
from tests.clips import CONFIGS, write_repository

IMAGES = 100
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
BATCH = 4

# Of a whole CLIP it lists the text tower, which nobody reads.
logging.set_verbosity_error()

pytestmark = pytest.mark.timeout(1800)


def varied_images(photographs: list[Path]) -> Iterator[tuple[str, bytes]]:
    """Parts of photographs, noise and plain colours, of many sizes, shapes and formats."""
    rng = np.random.default_rng(7)
    sources = [Image.open(path).convert("RGB") for path in photographs]
    for number in range(IMAGES):
        width, height = (int(side) for side in np.exp(rng.uniform(np.log(16), np.log(1600), 2)))
        if number % 10 == 8:
            image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        elif number % 10 == 9:
            image = Image.new("RGB", (width, height), tuple(map(int, rng.integers(0, 256, 3))))
        else:
            source = sources[number % len(sources)]
            left, top = rng.uniform(0, 0.5, 2) * source.size
            right, bottom = (left, top) + rng.uniform(0.2, 0.5, 2) * source.size
            image = source.resize((width, height), box=(left, top, right, bottom))
        if number % 7 == 0:
            image = image.convert("L")
        kind = FORMATS[number % len(FORMATS)]
        buffer = BytesIO()
        image.save(buffer, kind, **({"quality": 80} if kind in ("JPEG", "WEBP") else {}))
        yield f"{number:03}.{kind.lower()}", buffer.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, examples: list[Path]) -> Path:
    folder = tmp_path_factory.mktemp("varied")
    for name, data in varied_images(examples):
        (folder / name).write_bytes(data)
    return folder


def transformers_logits(model: Path, head: Path, paths: list[Path]) -> np.ndarray:
    """As the research script has them: OpenCV, transformers, a linear layer."""
    tower = CLIPVisionModelWithProjection.from_pretrained(model).eval()
    linear = load_file(head)
    side = tower.config.image_size
    rows = []
    for start in range(0, len(paths), BATCH):
        images = [cv2.imread(str(path)) for path in paths[start : start + BATCH]]
        squares = [cv2.cvtColor(cv2.resize(i, (side, side)), cv2.COLOR_BGR2RGB) for i in images]
        values = (np.stack(squares) / 255 - CLIP_MEAN) / CLIP_STD
        with torch.inference_mode():
            pixels = torch.from_numpy(values).float().permute(0, 3, 1, 2)
            pooled = tower.vision_model(pixels).pooler_output
            rows.append(pooled @ linear["weight"].T + linear["bias"])
    return torch.cat(rows).numpy()


def served_logits(archive: Path, paths: list[Path], engine: str) -> np.ndarray:
    detector = load_detector(archive)
    assert detector.engine.name == engine
    verdicts = detector.judge([path.read_bytes() for path in paths])
    assert all(isinstance(verdict, Verdict) for verdict in verdicts)
    return np.array([verdict.logits for verdict in verdicts])


@pytest.mark.parametrize("name", VISION_SHAPES)
def test_logits_are_those_of_transformers(name: str, folder: Path, tmp_path: Path) -> None:
    model = write_repository(tmp_path / "model", CONFIGS[name], decoys=False)
    built = Builder(tmp_path / "store")("--model", model)
    archive = unpack(built, tmp_path / "archive")
    paths = sorted(folder.iterdir())
    found = served_logits(archive, paths, "openvino cpu float32")
    expected = transformers_logits(model, archive / HEAD_FILE, paths)
    difference = np.abs(found - expected).max()
    print(f"\n{name}: {len(paths)} images, largest difference of a logit {difference:.2g}")
    assert difference < 1e-4
    assert expected.std(axis=0).min() > 0.01, "images that differ in logits"


def test_the_deviation_on_an_int8_card_is_that_from_transformers(
    folder: Path, tmp_path: Path
) -> None:
    config = CONFIGS["openai/clip-vit-base-patch32"]
    model = write_repository(tmp_path / "model", config, decoys=False)
    build = Builder(tmp_path / "store")
    built = build("--model", model, "--precision", "int8", "--calibration", folder)
    archive = unpack(built, tmp_path / "archive")
    paths = list(find_images(folder))
    random.Random(0).shuffle(paths)
    measured = paths[len(paths) // 2 :]
    int8 = served_logits(archive, measured, "openvino cpu int8")
    float32 = transformers_logits(model, archive / HEAD_FILE, measured)
    after, before = (1 / (1 + np.exp(x[:, 0] - x[:, 1])) for x in (int8, float32))
    change = np.abs(after - before)
    card = read_card(archive).deviation
    print(f"\nint8: {card}; from outside: mean {change.mean():.6f}, largest {change.max():.6f}")
    assert card.images == len(measured)
    assert card.mean_change == pytest.approx(change.mean(), abs=2e-6)
    assert card.largest_change == pytest.approx(change.max(), abs=2e-6)
    assert card.agreement == pytest.approx(((before > 0.5) == (after > 0.5)).mean(), abs=1e-6)
