"""A traced graph beside transformers, and beside the torch module."""

import copy
from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np
import openvino as ov
import pytest
import torch
from clip_deepfake.card import Card, Feature
from clip_deepfake.encoder import Encoder
from clip_deepfake.errors import LoadError
from clip_deepfake.openvino_engine import LinearHead, OpenVinoEngine, read_graph
from clip_deepfake.preprocessing import Preprocessing, squash
from clip_deepfake.torch_engine import TorchEngine
from deepfake_tools.demonstration.random_clip import VISION_SHAPES
from deepfake_tools.packaging.topology import store_as, trace, write_with_weights
from safetensors.torch import load_file
from transformers import CLIPVisionModelWithProjection

from tests.unit.towers import module_of, published, reference, shape_of

SHAPES = {
    "plain": {},
    "one layer": {"num_hidden_layers": 1},
    "one head": {"num_attention_heads": 1},
    "one patch": {"image_size": 16},
    "patches that do not fill the side": {"image_size": 50, "patch_size": 16},
    "patches of odd size": {"image_size": 47, "patch_size": 7},
    "wide eps": {"layer_norm_eps": 1e-3},
    **{name: {"hidden_act": name} for name in ("quick_gelu", "gelu", "gelu_pytorch_tanh")},
}

UNLIKE = {"mean": (0.1, 0.9, 0.5), "std": (0.05, 0.9, 0.3)}
"""Channels that differ, so that none can stand for another."""


def varied(side: int, images: int) -> np.ndarray:
    """All black, all white, then noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (images, side, side, 3)).astype(np.uint8)
    pixels[0] = 0
    pixels[1:2] = 255
    return pixels


def both(
    model: CLIPVisionModelWithProjection,
    feature: Feature,
    preprocessing: Preprocessing,
    pixels: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The feature by OpenVINO and by transformers, float32 (images, width)."""
    graph = trace(Encoder(copy.deepcopy(model), feature, preprocessing), model.config.image_size)
    compiled = ov.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    (found,) = compiled([pixels]).values()
    mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
    values = ((torch.from_numpy(pixels) / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.inference_mode():
        pooled = model.vision_model(values).pooler_output
        expected = pooled if feature == "pooler_output" else model(values).image_embeds
    return found, expected.numpy()


@pytest.mark.parametrize(
    ("shape", "feature"),
    [("plain", "pooler_output"), *((shape, "image_embeds") for shape in SHAPES)],
)
def test_features_are_those_of_transformers(shape: str, feature: Feature) -> None:
    model = reference(**SHAPES[shape])
    side = model.config.image_size
    preprocessing = msgspec.structs.replace(squash(side), **UNLIKE)
    found, expected = both(model, feature, preprocessing, varied(side, 5))
    assert found.dtype == np.float32
    assert np.allclose(found, expected, atol=5e-5)


@pytest.mark.parametrize("name", VISION_SHAPES)
def test_logits_of_the_published_shapes_are_those_of_transformers(name: str) -> None:
    """As wide and with as many patches as they are, but of two layers, which take a second."""
    model = published(name, layers=2)
    side = model.config.image_size
    found, expected = both(model, "image_embeds", squash(side), varied(side, 4))
    torch.manual_seed(0)
    head = torch.nn.Linear(expected.shape[1], 2).weight.detach().numpy().T
    assert np.abs(found @ head - expected @ head).max() < 1e-4
    assert np.abs(np.diff(expected @ head, axis=0)).max() > 0.01, "images that differ in logits"


@pytest.mark.parametrize(
    ("outputs", "l2_normalize", "batches"), [(1, False, range(1, 10)), (2, True, (1, 4))]
)
def test_logits_are_the_torch_engines_for_any_batch(
    small_card: Card, outputs: int, l2_normalize: bool, batches: Iterable[int]
) -> None:
    model = reference()
    head = msgspec.structs.replace(
        small_card.head, outputs=outputs, fake_indices=(outputs - 1,), l2_normalize=l2_normalize
    )
    card = msgspec.structs.replace(small_card, encoder=shape_of(model), head=head)
    torch.manual_seed(0)
    linear = torch.nn.Linear(64, outputs).state_dict()
    module = module_of(card, model.state_dict(), linear)
    by_torch = TorchEngine(module, torch.device("cpu"))
    graph = trace(Encoder(copy.deepcopy(model), head.feature, card.preprocessing), 48)
    weights = {name: tensor.numpy() for name, tensor in linear.items()}
    by_openvino = OpenVinoEngine(graph, LinearHead(head, weights, 64), "float32")
    for batch in batches:
        pixels = varied(48, batch)
        logits = by_openvino(pixels)
        assert (logits.dtype, logits.shape) == (np.float32, (batch, outputs))
        assert np.allclose(logits, by_torch(pixels), atol=2e-5)
        features = by_openvino.features(pixels)
        assert np.allclose(features, by_torch.features(pixels), atol=2e-5)
        assert np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5) == l2_normalize


def test_a_feature_of_length_zero_stays_zero(small_card: Card) -> None:
    head = msgspec.structs.replace(small_card.head, l2_normalize=True)
    weights = {"weight": np.ones((2, 3), np.float32), "bias": np.zeros(2, np.float32)}
    features = np.zeros((1, 3), np.float32)
    assert not LinearHead(head, weights, 3).read(features).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_written_graph_reads_its_weights_from_the_encoders_own_file(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    model = reference()
    tensors = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    model.load_state_dict(tensors)
    graph = trace(Encoder(copy.deepcopy(model), "image_embeds", squash(48)), 48)
    store_as(graph, tensors)
    topology, weights = tmp_path / "encoder.xml", tmp_path / "encoder.safetensors"
    write_with_weights({topology: graph}, tensors, weights)

    stored = load_file(weights)
    constants = stored.pop("openvino.constants")
    assert {name: tensor.dtype for name, tensor in stored.items()} == dict.fromkeys(tensors, dtype)
    assert all(torch.equal(stored[name], tensors[name]) for name in tensors)
    assert constants.numel() * 8 < 4096
    assert not topology.with_suffix(".bin").exists()
    pixels = varied(48, 3)
    engine = ov.compile_model(
        read_graph(topology, weights), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    (found,) = engine([pixels]).values()
    mean, std = torch.tensor(squash(48).mean), torch.tensor(squash(48).std)
    values = ((torch.from_numpy(pixels) / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.inference_mode():
        assert np.allclose(found, model(values).image_embeds.numpy(), atol=5e-5)


def test_equal_encoders_are_equal_files(tmp_path: Path) -> None:
    for folder in (tmp_path / "1", tmp_path / "2"):
        folder.mkdir()
        model = reference()
        graph = trace(Encoder(model, "pooler_output", squash(48)), 48)
        write_with_weights({folder / "a.xml": graph}, model.state_dict(), folder / "a.safetensors")
    for name in ("a.xml", "a.safetensors"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_a_head_that_does_not_fit_is_named(small_card: Card, name: str) -> None:
    weights = {"weight": np.ones((2, 64), np.float32), "bias": np.zeros(2, np.float32)}
    weights[name] = weights[name][:1]
    with pytest.raises(LoadError, match=f"1 of the head's tensors.*{name}"):
        LinearHead(small_card.head, weights, 64)
