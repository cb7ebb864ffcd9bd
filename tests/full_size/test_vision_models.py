"""One model of published size of each further type, from the Hub stand-in, beside transformers.

Random weights; `make equality` runs it and prints the figures.
"""

import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_deepfake.card import HEAD_FILE, read_card
from clip_deepfake.loading import load_detector
from clip_deepfake.verdicts import Verdict
from PIL import Image
from safetensors.torch import load_file

from tests.building import Builder, unpack
from tests.hub_server import HubServer
from tests.vision_models import CLASSIFIERS, ENCODERS, Kind, processor_values, write_model

PHOTOGRAPHS = 20
KINDS = {f"{name} encoder": kind for name, kind in ENCODERS.items()} | {
    f"{name} classifier": kind for name, kind in CLASSIFIERS.items()
}

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory, examples: list[Path]) -> list[Path]:
    """Parts of the example photographs, of many sizes and shapes; PNG, which all read alike."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(3)
    sources = [Image.open(path).convert("RGB") for path in examples]
    for number in range(PHOTOGRAPHS):
        source = sources[number % len(sources)]
        size = tuple(int(side) for side in np.exp(rng.uniform(np.log(100), np.log(1500), 2)))
        left, top = rng.uniform(0, 0.5, 2) * source.size
        right, bottom = (left, top) + rng.uniform(0.2, 0.5, 2) * source.size
        part = source.resize(size, box=(left, top, right, bottom))
        part.save(folder / f"{number:02}.png")
    return sorted(folder.iterdir())


def expected_probabilities(
    kind: Kind, model: torch.nn.Module, archive: Path, values: torch.Tensor
) -> np.ndarray:
    rows = []
    with torch.inference_mode():
        for value in values:
            if kind.is_classifier:
                logits = model(pixel_values=value[None]).logits
            else:
                head = load_file(archive / HEAD_FILE)
                feature = kind.features[read_card(archive).head.feature](model, value[None])
                logits = feature @ head["weight"].T + head["bias"]
            rows.append(logits.softmax(1)[0, 1])
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("name", KINDS)
def test_probabilities_are_those_of_transformers(
    name: str, hub: HubServer, hub_cache: Path, photographs: list[Path], tmp_path: Path
) -> None:
    kind = KINDS[name]
    model = write_model(tmp_path / "model", kind, kind.full)
    repository = f"acme/{name.replace(' ', '-')}"
    hub.add(repository, tmp_path / "model")
    archive = unpack(Builder(tmp_path / "store")("--model", repository), tmp_path / "archive")
    recipe = read_card(archive).preprocessing
    images = [Image.open(path) for path in photographs]
    pixels = np.stack([recipe.apply(np.asarray(image)) for image in images])
    ours = torch.from_numpy((pixels / 255 - recipe.mean) / recipe.std).permute(0, 3, 1, 2).float()
    theirs = torch.from_numpy(np.stack([processor_values(tmp_path / "model", i) for i in images]))
    std = torch.tensor(recipe.std).view(3, 1, 1)
    difference = float(((ours - theirs).abs() * std).max() * 255)
    equal, direct = (
        expected_probabilities(kind, model, archive, values) for values in (ours, theirs)
    )
    del model
    gc.collect()
    verdicts = load_detector(archive).judge([path.read_bytes() for path in photographs])
    assert all(isinstance(verdict, Verdict) for verdict in verdicts)
    found = np.array([verdict.fake_probability for verdict in verdicts])  # type: ignore[union-attr]
    on_equal, on_own = (np.abs(found - expected).max() for expected in (equal, direct))
    print(
        f"\n{name}: pixels differ by up to {difference:.3f} of 255; fake_probability by "
        f"{on_equal:.2g} on equal pixels, {on_own:.2g} on transformers' own; from "
        f"{found.min():.4f} to {found.max():.4f}"
    )
    assert difference < 1.001
    assert on_equal < 1e-5
    assert on_own < 1e-5 or difference > 0.01
    assert np.ptp(found) > 1e-4, "photographs that differ in probability"
