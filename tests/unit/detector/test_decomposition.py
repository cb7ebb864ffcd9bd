"""Features taken apart: sums, an independent decomposition, and OpenVINO's graph of it."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import openvino as ov
import pytest
import torch
from clip_deepfake.card import Feature
from clip_deepfake.decomposition import Decomposition, NotDecomposableError
from clip_deepfake.encoder import Encoder, read_class_token_alone
from clip_deepfake.preprocessing import squash
from deepfake_tools.demonstration.random_clip import VISION_SHAPES
from deepfake_tools.packaging.topology import trace_decomposition
from torch import Tensor
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    MetaClip2VisionModelWithProjection,
    PreTrainedModel,
)

from tests.unit.towers import published, reference
from tests.vision_models import CLASSIFIERS, CONVNET, ENCODERS, SMALL, write_model

Rows = npt.NDArray[np.float64]


def tower(name: str, folder: Path) -> PreTrainedModel:
    """A small model of this name, its weights far from their initial ones."""
    if name == "clip":
        return reference()
    if name == "registers":
        settings = Dinov2WithRegistersConfig(**SMALL, num_register_tokens=3)
        torch.manual_seed(7)
        return Dinov2WithRegistersModel(settings).eval()
    kinds = CLASSIFIERS if name.startswith("classifier ") else ENCODERS
    model = write_model(folder, kinds[name.removeprefix("classifier ")])
    if name == "metaclip2":
        torch.manual_seed(7)
        return MetaClip2VisionModelWithProjection(model.config.vision_config).eval()
    return model if name.startswith("classifier ") else getattr(model, "vision_model", model)


CASES: list[tuple[str, Feature]] = [
    *(("clip", feature) for feature in ("pooler_output", "image_embeds", "class_token")),
    *((name, feature) for name, kind in ENCODERS.items() for feature in kind.features),
    *((f"classifier {name}", "classifier_input") for name in CLASSIFIERS),
    ("registers", "pooler_output"),
]


def encoder_of(name: str, feature: Feature, folder: Path) -> tuple[Encoder, int]:
    """An encoder as a worker has it, and the side of its input."""
    model = tower(name, folder)
    side = 48 if name == "clip" else 32
    encoder = Encoder(model, feature, squash(side))
    read_class_token_alone(encoder)
    return encoder, side


def noise(images: int, side: int) -> Tensor:
    rng = np.random.default_rng(images)
    return torch.from_numpy(rng.integers(0, 256, (images, side, side, 3)).astype(np.uint8))


@pytest.mark.parametrize("l2_normalize", [False, True])
@pytest.mark.parametrize(("name", "feature"), CASES)
def test_parts_add_up_in_torch_and_in_a_graph_of_any_batch(
    name: str, feature: Feature, l2_normalize: bool, tmp_path: Path
) -> None:
    encoder, side = encoder_of(name, feature, tmp_path)
    decomposition = Decomposition(encoder, l2_normalize=l2_normalize)
    pixels = noise(3, side)
    with torch.inference_mode():
        found = encoder(pixels)
        whole = torch.nn.functional.normalize(found) if l2_normalize else found
        directions = torch.randn(whole.shape, generator=torch.Generator().manual_seed(1))
        parts = decomposition(pixels, directions)
        assert torch.equal(encoder(pixels), found), "the encoder is left as it was"
    patches = (side // (16 if name == "clip" else 8)) ** 2
    assert parts.shape == (3, 1 + patches)
    expected = (whole * directions).sum(1)
    rounding = 1e-5 * max(1, float(parts.abs().max()))
    assert (parts.sum(1) - expected).abs().max() < rounding
    assert parts[:, 1:].abs().max() > 1e-3
    graph = trace_decomposition(decomposition, side, whole.shape[1])
    engine = ov.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for batch in (1, 3):
        (by_graph,) = engine([pixels[:batch].numpy(), directions[:batch].numpy()]).values()
        assert np.abs(by_graph - parts[:batch].numpy()).max() < rounding


@pytest.mark.parametrize("name", VISION_SHAPES)
def test_parts_of_the_published_shapes_add_up(name: str) -> None:
    """As wide and with as many patches as they are, but of two layers, which take a second."""
    model = published(name, layers=2)
    side, feature = model.config.image_size, "image_embeds"
    encoder = Encoder(model, feature, squash(side))
    read_class_token_alone(encoder)
    pixels = noise(2, side)
    with torch.inference_mode():
        found = encoder(pixels)
        directions = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
        parts = Decomposition(encoder, l2_normalize=False)(pixels, directions)
    assert parts.shape == (2, 1 + (side // model.config.patch_size) ** 2)
    assert (parts.sum(1) - (found * directions).sum(1)).abs().max() < 1e-4
    assert parts[:, 1:].std() > 1e-4


def by_hooks(model: PreTrainedModel, values: Tensor, direction: Tensor) -> Rows:
    """The decomposition of CLIP's or DINOv2's class token, forwards, a vector for each summand.

    Another way than the package's: attention's weights come from transformers' own output, every
    token's vector is sent through the layer's own linear module, and the final norm is applied to
    each of the summands.
    """
    tower = getattr(model, "vision_model", model)
    layers = list(getattr(tower.encoder, "layers", None) or tower.encoder.layer)
    found: dict[str, list[Tensor]] = {"values": [], "mlp": [], "before": []}
    handles = []
    for layer in layers:
        attention = getattr(layer, "self_attn", None) or layer.attention
        mlp_end = getattr(layer, "layer_scale2", layer.mlp)
        handles += [
            attention.v_proj.register_forward_hook(lambda *a: found["values"].append(a[2])),
            mlp_end.register_forward_hook(lambda *a: found["mlp"].append(a[2][:, 0])),
            layer.register_forward_pre_hook(lambda *a: found["before"].append(a[1][0][:, 0])),
        ]
    tower.set_attn_implementation("eager")
    output = tower(values, output_attentions=True, output_hidden_states=True)
    for handle in handles:
        handle.remove()
    pieces: list[Tensor] = [found["before"][0], *found["mlp"]]
    tokens: Tensor = torch.zeros(())
    for layer, weights, value in zip(layers, output.attentions, found["values"], strict=True):
        attention = getattr(layer, "self_attn", None) or layer.attention
        last = getattr(attention, "out_proj", None) or attention.o_proj
        scale = layer.layer_scale1 if hasattr(layer, "layer_scale1") else torch.nn.Identity()
        heads = value.unflatten(-1, (weights.shape[1], -1))
        mixed = (weights[:, :, 0].transpose(1, 2)[..., None] * heads).flatten(2)
        tokens = tokens + scale(last(mixed) - last.bias)
        pieces.append(scale(last.bias.expand(len(values), -1)))
    norm = getattr(tower, "post_layernorm", None) or tower.layernorm
    token = sum(pieces) + tokens.sum(1)
    assert torch.allclose(token, output.hidden_states[-1][:, 0], atol=1e-4)
    spread = (token.var(1, keepdim=True, unbiased=False) + norm.eps).sqrt()

    def contribution(piece: Tensor) -> Tensor:
        centred = piece - piece.mean(-1, keepdim=True)
        if piece.dim() == 3:
            return (centred / spread[:, None] * norm.weight * direction).sum(-1)
        return (centred / spread * norm.weight * direction).sum(-1)

    rest = sum(contribution(piece) for piece in pieces) + norm.bias @ direction
    patches = contribution(tokens)[:, 1:]
    extra = contribution(tokens)[:, :1].sum(1)
    return torch.cat([(rest + extra)[:, None], patches], 1).double().numpy()


@pytest.mark.parametrize("name", ["clip", "dinov2"])
def test_the_decomposition_is_an_independent_ones(name: str, tmp_path: Path) -> None:
    encoder, side = encoder_of(name, "pooler_output", tmp_path)
    plain = tower(name, tmp_path)
    pixels = noise(2, side)
    direction = torch.randn(
        64 if name == "clip" else 32, generator=torch.Generator().manual_seed(2)
    )
    recipe = squash(side)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (recipe.mean, recipe.std))
    values = (pixels.permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.inference_mode():
        expected = by_hooks(plain, values, direction)
        decomposition = Decomposition(encoder, l2_normalize=False)
        found = decomposition(pixels, direction.expand(2, -1)).double().numpy()
    assert np.abs(found - expected).max() < 1e-4
    assert np.ptp(found[:, 1:]) > 0.01


def test_a_model_without_such_parts_is_not_taken_apart(tmp_path: Path) -> None:
    model = write_model(tmp_path, CONVNET)
    encoder = Encoder(model, "classifier_input", squash(32))
    with pytest.raises(NotDecomposableError, match="ConvNextEncoder has no layers"):
        Decomposition(encoder, l2_normalize=False)
