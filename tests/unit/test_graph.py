"""OpenVINO's graph beside transformers, and beside the torch module."""

from collections.abc import Iterable

import msgspec
import numpy as np
import openvino as ov
import pytest
import torch
from clip_deepfake.card import Card, Feature
from clip_deepfake.encoder import ACTIVATIONS, build_module
from clip_deepfake.errors import LoadError
from clip_deepfake.graph import encoder_graph
from clip_deepfake.openvino_engine import LinearHead, OpenVinoEngine
from clip_deepfake.preprocessing import Preprocessing, squash
from clip_deepfake.tensors import FloatArray, encoder_shapes
from clip_deepfake.torch_engine import TorchEngine
from deepfake_tools.standin import VISION_SHAPES
from transformers import CLIPVisionModelWithProjection

from tests.unit.towers import published, reference, shape_of

SHAPES = {
    "plain": {},
    "one layer": {"num_hidden_layers": 1},
    "one head": {"num_attention_heads": 1},
    "one patch": {"image_size": 16},
    "patches that do not fill the side": {"image_size": 50, "patch_size": 16},
    "patches of odd size": {"image_size": 47, "patch_size": 7},
    "wide eps": {"layer_norm_eps": 1e-3},
    **{name: {"hidden_act": name} for name in ACTIVATIONS},
}

UNLIKE = {"mean": (0.1, 0.9, 0.5), "std": (0.05, 0.9, 0.3)}
"""Channels that differ, so that none can stand for another."""


def arrays(model: CLIPVisionModelWithProjection) -> dict[str, FloatArray]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


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
    graph = encoder_graph(shape_of(model), feature, preprocessing, arrays(model))
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
    head = msgspec.structs.replace(small_card.head, outputs=outputs, l2_normalize=l2_normalize)
    card = msgspec.structs.replace(small_card, encoder=shape_of(model), head=head)
    torch.manual_seed(0)
    linear = torch.nn.Linear(64, outputs).state_dict()
    by_torch = TorchEngine(build_module(card, model.state_dict(), linear), torch.device("cpu"))
    graph = encoder_graph(card.encoder, head.feature, card.preprocessing, arrays(model))
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


def test_the_shapes_asked_for_are_those_of_transformers() -> None:
    model = reference(image_size=50)
    found = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert encoder_shapes(shape_of(model)) == found


TENSORS = [name for name in encoder_shapes(shape_of(reference())) if "layers." not in name]
TENSORS += [
    f"vision_model.encoder.layers.2.{name}" for name in ("mlp.fc1.bias", "layer_norm1.bias")
]


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("damage", ["missing", "one number", "longer"])
def test_tensors_that_do_not_fit_are_named(name: str, damage: str) -> None:
    model = reference()
    tensors = arrays(model)
    whole = tensors.pop(name)
    if damage == "one number":
        # What arithmetic would spread over all.
        tensors[name] = np.ones((1,) * whole.ndim, np.float32)
    elif damage == "longer":
        tensors[name] = np.concatenate([whole, whole[:1]])
    with pytest.raises(LoadError, match=f"1 of the encoder's tensors.*{name}"):
        encoder_graph(shape_of(model), "image_embeds", squash(48), tensors)


def test_a_tensor_too_many_is_named() -> None:
    model = reference()
    tensors = arrays(model) | {"vision_model.surplus": np.zeros(3, np.float32)}
    with pytest.raises(LoadError, match=r"vision_model\.surplus: unknown wanted"):
        encoder_graph(shape_of(model), "pooler_output", squash(48), tensors)


def test_an_unknown_activation_is_named() -> None:
    model = reference()
    config = msgspec.structs.replace(shape_of(model), hidden_act="mish")
    with pytest.raises(LoadError, match="'mish' is not known"):
        encoder_graph(config, "pooler_output", squash(48), arrays(model))


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_a_head_that_does_not_fit_is_named(small_card: Card, name: str) -> None:
    weights = {"weight": np.ones((2, 64), np.float32), "bias": np.zeros(2, np.float32)}
    weights[name] = weights[name][:1]
    with pytest.raises(LoadError, match=f"1 of the head's tensors.*{name}"):
        LinearHead(small_card.head, weights, 64)
