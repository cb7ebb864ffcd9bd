"""Published detectors at full size under a real TorchServe: their own code's numbers come back."""

import hashlib
import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import requests
import torch
from clip_deepfake.card import read_card
from clip_deepfake.encoder import DetectorModule, build_module, load_encoder
from clip_deepfake.loading import self_test_pixels
from deepfake_tools.demonstration.random_clip import clip_config
from deepfake_tools.torchserve.local_server import LocalServer
from PIL import Image
from safetensors.torch import load_file

from tests import ROOT
from tests.clips import CONFIGS
from tests.published import Published, effort_on, on_clip

# A minute of it is Effort's 96 decompositions.
pytestmark = [pytest.mark.serving, pytest.mark.timeout(600)]

PUBLISHED_HEAD = ROOT.parent / "shared" / "data" / "univfd_fc_weights.pth"

# ViT-L/14 as it is; of the text tower, which no detector uses, hardly anything.
TEXT = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "vocab_size": 99,
}
LARGE = clip_config(CONFIGS["openai/clip-vit-large-patch14"]["vision_config"], TEXT, 768)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, examples: list[Path]) -> list[Path]:
    """A photograph, and noise that is larger, smaller and both than 224 x 224."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = [examples[0]]
    for width, height in [(333, 271), (121, 90), (400, 99)]:
        noise = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
        paths.append(folder / f"{width}x{height}.png")
        Image.fromarray(noise).save(paths[-1])
    return paths


@pytest.fixture(scope="module")
def univfd(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """The head that was really published, on a ViT-L/14 with random weights."""
    if not PUBLISHED_HEAD.exists():
        pytest.skip(f"{PUBLISHED_HEAD} is not here")
    return on_clip(PUBLISHED_HEAD, tmp_path_factory.mktemp("univfd"), LARGE)


@pytest.fixture(scope="module")
def effort(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Singular value decompositions of 96 matrices of 1024 x 1024, all but one value each kept."""
    return effort_on(tmp_path_factory.mktemp("effort"), LARGE, with_factors=False)


@pytest.fixture(scope="module")
def server(start_server: Callable[..., LocalServer]) -> LocalServer:
    """Up before the archives are built, which are registered while it runs."""
    return start_server()


def serve(published: Published, name: str, server: LocalServer, store: Path) -> None:
    """Builds as a person does, and registers."""
    command = [sys.executable, ROOT / "scripts/build_mar.py", *published.arguments]
    options = ["--served-name", name, "--export-path", store]
    result = subprocess.run([*command, *options], capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    server.management().register(f"{name}@1.mar", workers=1)
    server.wait_ready(name)


def ask(server: LocalServer, name: str, picture: Path) -> dict[str, object]:
    token = json.loads(server.key_file.read_text())["inference"]["key"]
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/octet-stream"}
    url = f"{server.inference_url}/predictions/{name}"
    answer = requests.post(url, picture.read_bytes(), headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_published_universalfakedetect_head_scores_as_its_code_does(
    univfd: Published, server: LocalServer, store: Path, pictures: list[Path]
) -> None:
    serve(univfd, "univfd", server, store)
    digest = hashlib.sha256(PUBLISHED_HEAD.read_bytes()).hexdigest()
    for picture in pictures:
        verdict = ask(server, "univfd", picture)
        with torch.inference_mode():
            expected = float(univfd.logits(picture).sigmoid())
        print(f"univfd {picture.name}: {verdict['fake_probability']} against {expected}")
        assert verdict["fake_probability"] == pytest.approx(expected, abs=1e-5)
        assert verdict["prediction"] == int(expected > 0.5)
        detector = verdict["detector"]
        assert detector["head"] == "trained"
        assert detector["head_file"] == PUBLISHED_HEAD.name
        assert detector["head_sha256"] == digest


def test_effort_scores_as_its_unfolded_layers_do(
    effort: Published, server: LocalServer, store: Path, pictures: list[Path]
) -> None:
    serve(effort, "effort", server, store)
    for picture in pictures:
        verdict = ask(server, "effort", picture)
        with torch.inference_mode():
            expected = effort.logits(picture).tolist()
        print(f"effort {picture.name}: {verdict['logits']} against {expected}")
        assert verdict["logits"] == pytest.approx(expected, abs=1e-4)


def test_effort_is_as_fast_as_the_plain_encoder(
    effort: Published, univfd: Published, server: LocalServer, store: Path, tmp_path: Path
) -> None:
    """The same tensors by name and shape, and, taken in turns, the same time."""
    modules = {name: module_of(store / f"{name}@1.mar", tmp_path) for name in ("effort", "univfd")}
    shapes = {
        name: {
            key: value.shape
            for key, value in module.encoder.model.vision_model.state_dict().items()
        }
        for name, module in modules.items()
    }
    assert shapes["effort"] == shapes["univfd"]
    pixels = torch.from_numpy(self_test_pixels(224))
    times: dict[str, list[float]] = {name: [] for name in modules}
    for _ in range(7):
        for name, module in modules.items():
            start = time.perf_counter()
            with torch.inference_mode():
                module(pixels)
            times[name].append(time.perf_counter() - start)
    # The best of each: what else runs on the machine only ever adds.
    folded, plain = (min(times[name]) for name in modules)
    print(f"one image: Effort {folded * 1000:.0f} ms, plain {plain * 1000:.0f} ms")
    assert folded < 1.5 * plain


def module_of(archive: Path, folder: Path) -> DetectorModule:
    """The torch module that a worker makes of an archive."""
    unpacked = folder / archive.stem
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(unpacked)
    card = read_card(unpacked)
    tensors, head = (load_file(unpacked / f"{part}.safetensors") for part in ("encoder", "head"))
    encoder = load_encoder(card.encoder, card.head.feature, card.preprocessing, tensors)
    return build_module(encoder, card.head, head, card.encoder.feature_size(card.head.feature))
